"""Content keys: equal key, equal work.

A key is a hash of an op's kind, version and fields. Fields hold `Ref`s in place of other ops, so the key of an
input is part of the key of what uses it.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import lru_cache

from backend.errors import TesseraError
from backend.ops import Op
from backend.types import OpKey


class Unkeyable(TesseraError):
    """A value that has no content to compare by (an arbitrary object): it equals nothing but itself."""

    code = "unkeyable"


def content_key(op: Op[object]) -> OpKey:
    """The key of a flat op. Raises: Unkeyable."""
    parts = [type(op).__name__, str(type(op).version)]
    skipped = getattr(type(op), "unkeyed", ())
    for name in _field_names(type(op)):
        if name not in skipped:
            _write(getattr(op, name), parts)
    return OpKey(_digest(parts))


def value_key(*values: object) -> OpKey:
    """The key of a tuple of plain values and references. Raises: Unkeyable."""
    parts: list[str] = []
    _write(values, parts)
    return OpKey(_digest(parts))


def _digest(parts: list[str]) -> str:
    return hashlib.blake2b("\x1f".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


@lru_cache(maxsize=512)
def _field_names(kind: type) -> tuple[str, ...]:
    return tuple(f.name for f in fields(kind))


def _write(value: object, parts: list[str]) -> None:
    """Append an unambiguous text of `value`: a tag of its type, its length where it has one, its content."""
    if value is None or isinstance(value, bool | int):
        parts.append(f"{type(value).__name__[0]}{value}")
    elif isinstance(value, str):
        parts.append(f"s{len(value)}:{value}")
    elif isinstance(value, float):
        if value != value:
            raise Unkeyable("not a number equals nothing, itself included")
        parts.append(f"f{value!r}")
    elif isinstance(value, bytes):
        parts.append(f"y{value.hex()}")
    elif isinstance(value, tuple | list):
        parts.append(f"l{len(value)}")
        for item in value:
            _write(item, parts)
    elif isinstance(value, Mapping):
        parts.append(f"m{len(value)}")
        for key in sorted(value, key=str):
            parts.append(f"k{key!r}")
            _write(value[key], parts)
    elif is_dataclass(value) and not isinstance(value, type):
        parts.append(f"d{type(value).__name__}")
        for name in _field_names(type(value)):
            _write(getattr(value, name), parts)
    else:
        raise Unkeyable(f"a {type(value).__name__} can't be compared by content")
