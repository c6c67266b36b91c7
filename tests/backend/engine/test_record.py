"""What lists show of a job, read from what it holds."""

import pytest

from backend.engine.record import JobRecord, without_secrets


def a_record(**changes: object) -> JobRecord:
    given = {"id": "a", "number": 1.0, "sequence": 1, "prompt": {}, "targets": ("9",), "created": 1000}
    return JobRecord(**{**given, **changes})


def image(name: str, type_: str = "output") -> dict[str, str]:
    return {"filename": name, "subfolder": "", "type": type_}


def test_a_saved_file_is_the_preview_before_a_temporary_one():
    outputs = {"3": {"images": [image("t.png", "temp")]}, "2": {"images": [image("o.png"), image("p.png")]}}
    record = a_record(outputs=outputs)
    assert record.preview_output == {**image("o.png"), "nodeId": "2", "mediaType": "images"}
    assert record.outputs_count == 3


def test_without_a_saved_file_the_first_that_can_be_shown_is_the_preview():
    outputs = {"1": {"text": ["hello"]}, "3": {"images": [image("t.png", "temp"), image("u.png", "temp")]}}
    assert a_record(outputs=outputs).preview_output == {
        **image("t.png", "temp"),
        "nodeId": "3",
        "mediaType": "images",
    }


@pytest.mark.parametrize(
    ("kind", "item", "shown"),
    [
        ("gifs", {"filename": "a.mp4", "format": "video/h264-mp4"}, True),
        ("sound", {"filename": "a.flac", "format": "audio/flac"}, True),
        ("audio", {"filename": "a.flac"}, True),
        ("3d", {"filename": "a.GLB"}, True),
        ("latents", {"filename": "a.latent"}, False),
        ("images", {"text": "no file"}, False),
        ("text", "hello", False),
    ],
)
def test_what_can_be_shown_goes_by_key_format_and_ending(kind, item, shown):
    record = a_record(outputs={"1": {kind: [item]}})
    assert (record.preview_output is not None) is shown
    assert record.outputs_count == 1


@pytest.mark.parametrize("ui", [None, 5, {"animated": [True]}, {"images": None}, {}])
def test_what_is_no_list_of_outputs_counts_nothing(ui):
    record = a_record(outputs={"1": ui})
    assert (record.outputs_count, record.preview_output) == (0, None)


@pytest.mark.parametrize(
    ("extra", "id"),
    [
        ({"extra_pnginfo": {"workflow": {"id": "w1"}}}, "w1"),
        ({"extra_pnginfo": {"workflow": {"id": 7}}}, "7"),
        ({"extra_pnginfo": {"workflow": {}}}, None),
        ({"extra_pnginfo": {"workflow": "w"}}, None),
        ({"extra_pnginfo": None}, None),
        ({}, None),
    ],
)
def test_the_workflow_is_known_by_its_id(extra, id):
    assert a_record(extra=extra).workflow_id == id


def test_secrets_are_dropped_and_the_rest_stays():
    extra = {"auth_token_comfy_org": "s", "api_key_comfy_org": "t", "client_id": "c"}
    assert without_secrets(a_record(extra=extra)).extra == {"client_id": "c"}


def test_a_summary_says_the_same_as_the_record():
    error = {"node_id": "2", "exception_message": "no"}
    record = a_record(
        status="failed", error=error, started=5, ended=9, outputs={"1": {"images": [image("a.png")]}}
    )
    summary = record.summary()
    assert all(getattr(summary, name) == getattr(record, name) for name in summary.__slots__)
