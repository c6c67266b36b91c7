"""Nested ops become flat ones, which refer to each other by `Ref`; and what a flat op refers to."""

from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass, replace

from backend.graph.keys import content_key
from backend.ops import Call, Op, Part, field_names
from backend.references import Ref
from backend.types import OpKey


def flatten(value: object, ops: dict[OpKey, Op[object]]) -> object:
    """`value` with every op in it (nested ones too) replaced by a Ref; the ops go to `ops`, inputs first."""
    if isinstance(value, Part):
        ref = flatten(value.op, ops)
        assert isinstance(ref, Ref)
        return Ref(ref.key, value.slot)
    if isinstance(value, Op):
        flat = _with_fields(value, ops)
        assert isinstance(flat, Op)
        key = content_key(flat)
        ops.setdefault(key, flat)
        return Ref(key)
    if isinstance(value, tuple):
        items = tuple(flatten(item, ops) for item in value)
        return value if all(a is b for a, b in zip(items, value, strict=True)) else items
    if isinstance(value, Mapping):  # a condition's options, say
        options = {name: flatten(item, ops) for name, item in value.items()}
        return value if all(options[name] is item for name, item in value.items()) else options
    if is_dataclass(value) and not isinstance(value, type | Ref):
        return _with_fields(value, ops)
    return value


def inputs_of(op: Op[object]) -> tuple[OpKey, ...]:
    """The keys that a flat op refers to, each once, in order."""
    found: dict[OpKey, None] = {}
    if isinstance(op, Call):
        for items in op.inputs.values():
            for item in items:
                if isinstance(item, Ref):
                    found[item.key] = None
    else:
        _collect(op, found)
    return tuple(found)


def refs_in(values: Iterable[object]) -> dict[OpKey, None]:
    """The keys that values refer to, those within references too."""
    found: dict[OpKey, None] = {}
    for value in values:
        _collect(value, found)
    return found


def _collect(value: object, found: dict[OpKey, None]) -> None:
    if isinstance(value, Ref):
        found[value.key] = None
    elif isinstance(value, tuple):
        for item in value:
            _collect(item, found)
    elif isinstance(value, Mapping):
        for item in value.values():
            _collect(item, found)
    elif is_dataclass(value) and not isinstance(value, type):
        for name in field_names(value):
            _collect(getattr(value, name), found)


def _with_fields(value: object, ops: dict[OpKey, Op[object]]) -> object:
    changed = {}
    for name in field_names(value):
        old = getattr(value, name)
        new = flatten(old, ops)
        if new is not old:
            changed[name] = new
    return replace(value, **changed) if changed else value  # type: ignore[type-var]  # a dataclass, tested above
