"""`@frozen`: how every value is declared that travels through the program and never changes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform, overload

T = TypeVar("T")


@overload
def frozen(cls: type[T], /) -> type[T]: ...
@overload
def frozen(*, eq: bool = ..., weakref_slot: bool = ...) -> Callable[[type[T]], type[T]]: ...


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(
    cls: type[T] | None = None, /, *, eq: bool = True, weakref_slot: bool = False
) -> type[T] | Callable[[type[T]], type[T]]:
    """A dataclass with slots that is frozen for the type checker: it refuses to set a field again.

    Nothing watches at run time. There `frozen=True` would have each field set through a method instead of an
    instruction, and a prompt makes some hundred values. eq=False: equal to itself only.
    """
    make = dataclass(slots=True, eq=eq, unsafe_hash=eq, weakref_slot=weakref_slot)
    return make if cls is None else make(cls)
