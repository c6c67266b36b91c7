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
    _write([getattr(op, name) for name in keyed_names(op)], parts)
    return OpKey(_digest(parts))


def value_key(*values: object) -> OpKey:
    """The key of a tuple of plain values and references. Raises: Unkeyable."""
    parts: list[str] = []
    _write((values,), parts)
    return OpKey(_digest(parts))


def _digest(parts: list[str]) -> str:
    return hashlib.blake2b("\x1f".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _write(values: Iterable[object], parts: list[str]) -> None:
    """Append an unambiguous text of each value: a tag of its type, its length where it has one, its content.

    First what prompts are full of: this runs for every input of every node.
    """
    for value in values:
        kind = type(value)
        if kind is str:
            parts.append(f"s{len(value)}:{value}")  # type: ignore[arg-type]  # a str
        elif kind is int or kind is bool:
            parts.append(f"{kind.__name__[0]}{value}")
        elif kind is tuple or kind is list:
            parts.append(f"l{len(value)}")  # type: ignore[arg-type]  # one of these
            _write(value, parts)  # type: ignore[arg-type]  # likewise
        elif kind is Ref:
            parts.append(f"r{value.key}.{value.slot}.{value.item}")  # type: ignore[attr-defined]  # a Ref
        elif kind is dict:
            _write_mapping(value, parts)  # type: ignore[arg-type]  # a dict
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
            parts.append(f"l{len(value)}")
            _write(value, parts)
        case Mapping():
            _write_mapping(value, parts)
        case _ if type(value).__name__ in ("Tensor", "Parameter") and hasattr(value, "untyped_storage"):
            parts.append(_tensor(value))
        case _ if is_dataclass(value) and not isinstance(value, type):
            parts.append(f"d{type(value).__name__}")
            _write([getattr(value, name) for name in keyed_names(value)], parts)
        case _:
            raise Unkeyable(f"a {type(value).__name__} can't be compared by content")


def _write_mapping(value: Mapping[object, object], parts: list[str]) -> None:
    parts.append(f"m{len(value)}")
    _write([part for key in sorted(value, key=str) for part in (key, value[key])], parts)


def _tensor(tensor: Any) -> str:
    """A tensor by its dtype, shape and numbers. Torch is not named here: whoever has one has loaded it."""
    flat = tensor.detach().cpu().contiguous().flatten()
    digest = blake3()
    if len(flat):
        digest.update(flat.view(flat.new_empty(0).byte().dtype).numpy().tobytes())
    return f"t{tensor.dtype}{tuple(tensor.shape)}{digest.hexdigest(length=16)}"
