"""Wrong prompts and damaged files get a clear error in ComfyUI's shape, and harm nobody else."""

from pathlib import Path

import pytest

from tests.build import a_node, a_prompt, a_tiny_prompt
from tests.serving import Server, error_of, succeeded

pytestmark = pytest.mark.server


@pytest.fixture(autouse=True)
def unharmed(server: Server):
    """After every test here, the same process still turns a good prompt into an image."""
    yield
    assert server.process is not None
    assert server.process.poll() is None
    assert succeeded(server.run(a_tiny_prompt()))


def refused(server: Server, prompt) -> dict:
    status, answer = server.post("/prompt", {"prompt": prompt})
    assert status == 400, answer
    assert set(answer) == {"error", "node_errors"}
    assert set(answer["error"]) == {"type", "message", "details", "extra_info"}
    return answer


def node_error(answer, node: str) -> dict:
    assert answer["error"]["type"] == "prompt_outputs_failed_validation"
    found = answer["node_errors"][node]
    assert set(found) == {"errors", "dependent_outputs", "class_type"}
    (error,) = found["errors"]
    return error


def with_input(node: str, name: str, value: object):
    prompt = a_prompt()
    prompt[node]["inputs"][name] = value
    return prompt


def test_an_unknown_node_is_named(server: Server):
    prompt = a_prompt()
    prompt["3"]["class_type"] = "KSamplr"
    error = refused(server, prompt)["error"]
    assert error["type"] == "invalid_prompt"
    assert "KSamplr" in error["message"]
    assert "#3" in error["details"]


def test_a_missing_input_is_named(server: Server):
    prompt = a_prompt()
    del prompt["3"]["inputs"]["positive"]
    error = node_error(refused(server, prompt), "3")
    assert error["type"] == "required_input_missing"
    assert "positive" in error["details"]


def test_a_link_of_the_wrong_type_names_both_types(server: Server):
    error = node_error(refused(server, with_input("3", "positive", ["5", 0])), "3")
    assert error["type"] == "return_type_mismatch"
    assert "LATENT" in error["details"]
    assert "CONDITIONING" in error["details"]


def test_a_value_of_the_wrong_type_is_shown(server: Server):
    error = node_error(refused(server, with_input("3", "steps", "many")), "3")
    assert error["type"] == "invalid_input_type"
    assert "many" in error["details"]


@pytest.mark.parametrize(("steps", "code"), [(0, "value_smaller_than_min"), (10**6, "value_bigger_than_max")])
def test_a_value_out_of_range_is_shown_with_the_range(server: Server, steps: int, code: str):
    error = node_error(refused(server, with_input("3", "steps", steps)), "3")
    assert error["type"] == code
    assert error["extra_info"]["received_value"] == steps
    assert error["extra_info"]["input_config"][1]["max"] == 10000


def test_a_missing_checkpoint_is_named_beside_those_there_are(server: Server):
    error = node_error(refused(server, a_prompt("absent.safetensors")), "4")
    assert error["type"] == "value_not_in_list"
    assert "absent.safetensors" in error["details"]
    assert "demo.safetensors" in error["details"]


def test_a_missing_image_is_named(server: Server):
    prompt = {"1": a_node("LoadImage", image="nowhere.png"), "2": a_node("PreviewImage", images=["1", 0])}
    error = node_error(refused(server, prompt), "1")
    assert error["type"] == "custom_validation_failed"
    assert "nowhere.png" in error["details"]


def test_a_cycle_is_refused(server: Server):
    prompt = a_tiny_prompt()
    prompt["2"]["inputs"]["image"] = ["4", 0]
    prompt["4"] = a_node("ImageInvert", image=["2", 0])
    answer = refused(server, prompt)
    assert "dependency_cycle" in str(answer)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("header-only.safetensors", lambda whole: whole[:5000]),
        ("truncated.safetensors", lambda whole: whole[: len(whole) // 2]),
        ("text.safetensors", lambda whole: b"<html>404 not found</html>" * 100),
        ("empty.safetensors", lambda whole: b""),
    ],
)
def test_a_corrupt_checkpoint_fails_its_own_job_and_is_named(
    server: Server, name: str, damage, checkpoint: Path
):
    (server.base / "models/checkpoints" / name).write_bytes(damage(checkpoint.read_bytes()))
    status, answer = server.post("/prompt", {"prompt": a_prompt(name)})
    text = str(answer)
    if status == 200:
        entry = server.finished(answer["prompt_id"])
        assert entry["status"]["status_str"] == "error"
        text = error_of(entry)["exception_message"]
    assert name in text


def test_a_truncated_png_fails_its_own_job_and_is_named(server: Server):
    (whole,) = server.outputs(server.run(a_tiny_prompt(color=5, size=256)))
    (server.base / "input/half.png").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    prompt = {"1": a_node("LoadImage", image="half.png"), "2": a_node("PreviewImage", images=["1", 0])}
    status, answer = server.post("/prompt", {"prompt": prompt})
    if status == 200:
        error = error_of(server.finished(answer["prompt_id"]))
        assert (error["node_id"], error["node_type"]) == ("1", "LoadImage")
        answer = error["exception_message"]
    assert "half.png" in str(answer)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"prompt": 5}', b'{"prompt": {"1": 5}}', b'{"prompt": {}}', b"null"]
)
def test_nonsense_is_refused_as_json(server: Server, body: bytes):
    import urllib.error
    import urllib.request

    request = urllib.request.Request(server.url + "/prompt", body, {"Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=20)
    assert caught.value.code == 400
    caught.value.close()
