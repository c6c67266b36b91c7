import json
import struct
from pathlib import Path

import pytest

from backend.errors import BadFile
from backend.models.header import Header, TensorInfo, read_header


def written(path: Path, entries: object, data: bytes = b"", length: int | None = None) -> str:
    table = json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(table) if length is None else length) + table + data)
    return str(path)


def an_entry(shape: list[int], start: int, end: int, dtype: str = "F16") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def test_names_shapes_dtypes_and_metadata_are_read(tmp_path: Path):
    path = written(tmp_path / "a", {"a.b": an_entry([2, 3], 0, 12), "__metadata__": {"x": "y"}}, bytes(12))
    header = read_header(path)
    assert dict(header.tensors) == {"a.b": TensorInfo("F16", (2, 3))}
    assert header.metadata == {"x": "y"}
    assert header.shape("a.b") == (2, 3)
    assert header.has("a.b")
    assert not header.has("a.b", "a.c")


def test_the_tiny_checkpoint_has_a_header(tiny: Path):
    assert read_header(str(tiny)).shape("model.diffusion_model.out.2.weight") == (4, 32, 3, 3)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "ends after 0 bytes"),
        (b"PK\x03\x04 some zip archive, whatever it holds", "no safetensors file"),
        (b"<!DOCTYPE html><html><body>not found", "no safetensors file"),
        (struct.pack("<Q", 100) + b"{}", "ends within its header"),
        (struct.pack("<Q", 4) + b"{{{{", "header is damaged"),
        (struct.pack("<Q", 2) + b"[]", "header is damaged"),
        (struct.pack("<Q", 9) + b'{"a": {}}', "header is damaged"),
    ],
)
def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path, content: bytes, problem: str):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    with pytest.raises(BadFile, match=problem) as refusal:
        read_header(str(path))
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (an_entry([2, 3], 0, 12), "cut off"),
        (an_entry([2, 3], 0, 10), "does not fill"),
        (an_entry([2, 3], 0, -4), "does not fill"),
        ({"dtype": "F16", "shape": [2], "data_offsets": [0]}, "no start and end"),
    ],
)
def test_a_table_that_does_not_fit_its_data_is_refused(
    tmp_path: Path, entry: dict[str, object], problem: str
):
    with pytest.raises(BadFile, match=problem):
        read_header(written(tmp_path / "a", {"weight": entry}, bytes(10)))


def test_a_missing_file_is_refused(tmp_path: Path):
    with pytest.raises(BadFile, match="No such file"):
        read_header(str(tmp_path / "none.safetensors"))


def test_a_part_of_a_header_knows_its_prefix_and_the_marks_of_the_whole():
    info = TensorInfo("F16", (1,))
    part = Header("f", {"a.b.c": info, "x.y": info, "v_pred": info}).under("a.").under("b.")
    assert list(part) == ["c"]
    assert part.prefix == "a.b."
    assert "v_pred" in part.marks


def test_counting_stops_at_the_first_gap():
    info = TensorInfo("F16", (1,))
    header = Header("f", {f"layers.{n}.weight": info for n in (0, 1, 3)})
    assert header.count("layers.{}.") == 2
