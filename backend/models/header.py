"""A model file's table of contents: names, shapes and dtypes, read without its weights and without torch."""

import json
import math
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import BinaryIO

from backend.components import File
from backend.errors import BadFile
from backend.values import frozen

_LONGEST = 100_000_000  # bytes; the format's own limit for its JSON header
_BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "U16": 16,
    "I16": 16,
    "F16": 16,
    "BF16": 16,
    "U32": 32,
    "I32": 32,
    "F32": 32,
    "U64": 64,
    "I64": 64,
    "F64": 64,
}
_AGAIN = "Download or copy the file again."


@frozen
class TensorInfo:
    """dtype: safetensors' name for it (F16, BF16 ...); span: its bytes in the file, start and end."""

    dtype: str
    shape: tuple[int, ...]
    span: tuple[int, int] = field(default=(0, 0), compare=False)


@frozen
class Header:
    """What a model file holds, or a part of it.

    prefix: stands before every name of the part, and is left out of `tensors`; marks: names of the whole file
    that have no dot, or begin with `edm_vpred.` (`v_pred` and the like say what the model is).
    """

    path: str
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str] = field(default_factory=dict)
    prefix: str = ""
    marks: frozenset[str] = frozenset()

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def has(self, *names: str) -> bool:
        """Whether there are tensors of all these names."""
        return all(name in self.tensors for name in names)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor. Raises BadFile where there is none of that name."""
        if name not in self.tensors:
            raise BadFile(self.path, f"tensor {self.prefix + name!r} is missing", _AGAIN)
        return self.tensors[name].shape

    def under(self, prefix: str) -> "Header":
        """The tensors whose names begin with `prefix`, without it."""
        kept = {n.removeprefix(prefix): t for n, t in self.tensors.items() if n.startswith(prefix)}
        marks = self.marks | {
            name for name in self.tensors if "." not in name or name.startswith("edm_vpred.")
        }
        return Header(self.path, kept, self.metadata, self.prefix + prefix, marks)

    def count(self, pattern: str) -> int:
        """How many of pattern.format(0), pattern.format(1) ... begin at least one name, without a gap."""
        number = 0
        while any(name.startswith(pattern.format(number)) for name in self.tensors):
            number += 1
        return number


def read_header(path: str) -> Header:
    """The table of contents of a safetensors file.

    Raises: BadFile where the file is missing, not safetensors, or shorter than its table says.
    Source: the format's description, https://github.com/huggingface/safetensors#format.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            table = _read_table(path, size, file)
    except OSError as error:
        raise BadFile(path, error.strerror or str(error), "Check the name and the permissions.") from error
    return Header(path, *_parse(path, table, size))


def check_unchanged(file: File) -> None:
    """Raises: BadFile where a path no longer leads to the file that it led to."""
    try:
        now = os.stat(file.path)
    except OSError as error:
        raise BadFile(
            file.path, error.strerror or str(error), "Check the name and the permissions."
        ) from error
    if (now.st_size, now.st_mtime_ns, now.st_ino) != (file.size, file.mtime_ns, file.inode):
        remedy = "Wait until it is written, then run the prompt again."
        raise BadFile(file.path, "the file changed while it was in use", remedy)


def _read_table(path: str, size: int, file: BinaryIO) -> bytes:
    first = file.read(8)
    if len(first) < 8:
        raise BadFile(path, f"the file ends after {size} bytes", _AGAIN)
    (length,) = struct.unpack("<Q", first)
    if not 2 <= length <= _LONGEST:
        raise BadFile(path, "this is no safetensors file", "Use a model in the safetensors format.")
    if 8 + length > size:
        raise BadFile(path, f"the file ends within its header ({size} bytes of {8 + length})", _AGAIN)
    return file.read(length)


def _parse(path: str, table: bytes, size: int) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    try:
        entries = json.loads(table)
        metadata = {str(k): str(v) for k, v in (entries.pop("__metadata__", None) or {}).items()}
        spans = {name: tuple(map(int, e["data_offsets"])) for name, e in entries.items()}
        dtypes = {name: (str(e["dtype"]), tuple(map(int, e["shape"]))) for name, e in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadFile(path, f"its header is damaged ({error!r})", _AGAIN) from error
    data = size - 8 - len(table)
    tensors: dict[str, TensorInfo] = {}
    for name, (dtype, shape) in dtypes.items():
        if len(spans[name]) != 2:
            raise BadFile(path, f"tensor {name!r} has no start and end", _AGAIN)
        start, end = spans[name]
        info = tensors[name] = TensorInfo(dtype, shape, (size - data + start, size - data + end))
        if end > data:
            raise BadFile(path, f"the file is cut off: {name!r} ends at byte {end} of {data}", _AGAIN)
        bits = _BITS.get(info.dtype)
        if bits is not None and (start < 0 or (end - start) * 8 != bits * math.prod(info.shape)):
            raise BadFile(path, f"tensor {name!r} does not fill the {end - start} bytes it is given", _AGAIN)
    return tensors, metadata
