"""Content keys: equal key, equal work.

A key is a hash of an op's kind, version and fields. Fields hold `Ref`s in place of other ops, so the key of
an input is part of the key of what uses it.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass
from typing import Any

from blake3 import blake3

from backend.errors import TesseraError
from backend.ops import Op, keyed_names
from backend.references import Ref
from backend.types import OpKey


class Unkeyable(TesseraError):
    """A value that has no content to compare by (an arbitrary object): it equals nothing but itself."""

    code = "unkeyable"


def content_key(op: Op[object]) -> OpKey:
    """The key of a flat op. Raises: Unkeyable."""
    parts = [type(op).__name__, str(type(op).version)]
    for name in keyed_names(op):
        _write(getattr(op, name), parts)
    return OpKey(_digest(parts))


def value_key(*values: object) -> OpKey:
    """The key of a tuple of plain values and references. Raises: Unkeyable."""
    parts: list[str] = []
    _write(values, parts)
    return OpKey(_digest(parts))


def _digest(parts: list[str]) -> str:
    return hashlib.blake2b("\x1f".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _write(value: object, parts: list[str]) -> None:
    """Append an unambiguous text of `value`: a tag of its type, its length where it has one, its content."""
    kind = type(value)  # first what prompts are full of: this runs for every input of every node
    if kind is str:
        parts.append(f"s{len(value)}:{value}")  # type: ignore[arg-type]  # a str
    elif kind is int or kind is bool:
        parts.append(f"{kind.__name__[0]}{value}")
    elif kind is tuple or kind is list:
        _write_all(f"l{len(value)}", value, parts)  # type: ignore[arg-type]  # one of these
    elif isinstance(value, Ref):
        parts.append(f"r{value.key}.{value.slot}.{value.item}")
    else:
        _write_rest(value, parts)


def _write_rest(value: object, parts: list[str]) -> None:
    match value:
        case None | bool() | int():
            parts.append(f"{type(value).__name__[0]}{value}")
        case str():
            parts.append(f"s{len(value)}:{value}")
        case float() if value != value:
            raise Unkeyable("not a number equals nothing, itself included")
        case float():
            parts.append(f"f{value!r}")
        case bytes():
            parts.append(f"y{value.hex()}")
        case tuple() | list():
            _write_all(f"l{len(value)}", value, parts)
        case Mapping():
            pairs = [(key, value[key]) for key in sorted(value, key=str)]
            _write_all(f"m{len(value)}", [part for pair in pairs for part in pair], parts)
        case _ if type(value).__name__ in ("Tensor", "Parameter") and hasattr(value, "untyped_storage"):
            parts.append(_tensor(value))
        case _ if is_dataclass(value) and not isinstance(value, type):
            _write_all(f"d{type(value).__name__}", [getattr(value, n) for n in keyed_names(value)], parts)
        case _:
            raise Unkeyable(f"a {type(value).__name__} can't be compared by content")


def _tensor(tensor: Any) -> str:
    """A tensor by its dtype, shape and numbers. Torch is not named here: whoever has one has loaded it."""
    flat = tensor.detach().cpu().contiguous().flatten()
    digest = blake3()
    if len(flat):
        digest.update(flat.view(flat.new_empty(0).byte().dtype).numpy().tobytes())
    return f"t{tensor.dtype}{tuple(tensor.shape)}{digest.hexdigest(length=16)}"


def _write_all(tag: str, values: Iterable[object], parts: list[str]) -> None:
    parts.append(tag)
    for value in values:
        _write(value, parts)
