"""The shared engine, as code inside a third-party call uses it: ops are run, and waited for."""

from collections.abc import Callable
from typing import TypeVar

from backend.calling import current
from backend.errors import TesseraError
from backend.library import Library
from backend.ops import Awaiting, Identify, Op, Part

T = TypeVar("T")


class OutsideCall(TesseraError):
    """Model work that was asked for while no node of a prompt runs."""

    code = "outside_call"

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(
            f"{what} needs the engine, which serves nodes while they run. Do it inside the node's function, "
            "in the thread that it is called in."
        )


def computed(op: Op[object]) -> object:
    """The first output of an op, or what a `Part` names. Raises: OutsideCall, Interrupted, OpFailed."""
    if isinstance(op, Part):
        return outputs(op.op)[op.slot][0]
    return outputs(op)[0][0]


def outputs(op: Op[object]) -> tuple[tuple[object, ...], ...]:
    """All outputs of an op. Raises: as `computed`."""
    call = current()
    if call is None:
        raise OutsideCall(type(op).__name__)
    return call.line.compute(op)


def settled(make: Callable[[], T], library: Library) -> T:
    """What `make` returns, once the files that it asks about are read. Raises: BadFile."""
    while True:
        try:
            return make()
        except Awaiting as awaiting:
            ops = awaiting.ops
        for op in ops:
            if isinstance(op, Identify) and current() is None:
                library.identify(op.file)
            else:
                computed(op)
