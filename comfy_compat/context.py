"""Which call of which node the running code belongs to, and how it tells how far it is."""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass

CURRENT: ContextVar["Call | None"] = ContextVar("call", default=None)
Told = Callable[[float, float, "str | None", object, bool], None]


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a third-party node. index: which of the calls, where inputs are lists.

    progress(value, maximum, node id or None for this one, preview or None, at its full size): tells clients.
    """

    node_id: str
    client: str | None = None
    job_id: str | None = None
    index: int | None = None
    progress: Told | None = None


def current() -> Call | None:
    """The call that runs in this context."""
    return CURRENT.get()


def report_progress(
    value: float, maximum: float, node: str | None = None, preview: object = None, full_size: bool = False
) -> None:
    """Tell the clients of the running call how far it is. Outside of a call nobody listens."""
    call = current()
    if call is not None and call.progress is not None:
        call.progress(value, maximum, node, preview, full_size)
