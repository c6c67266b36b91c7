"""Which call a thread is in: what third-party code asks for as if there were one job on one machine.

The host sets it around every call of a node's code, coroutines included. Code of a node that runs in a thread
of its own making sees none, unless it copies its context.
"""

from contextvars import ContextVar
from typing import Literal, Protocol

from backend.ops import Op
from backend.types import ClientId, JobId, NodeId
from backend.values import frozen


@frozen
class Picture:
    """An encoded preview."""

    image: bytes
    format: Literal["JPEG", "PNG"] = "JPEG"


class Line(Protocol):
    """What a call may say and ask while it runs. All from any thread."""

    def progress(
        self, value: float, total: float, picture: Picture | None = None, node: NodeId | None = None
    ) -> None:
        """How far it is; value is capped at total. node: another node than the call's own (an inner one).

        Raises: Interrupted, before anything is reported.
        """
        ...

    def check(self) -> None:
        """Raises: Interrupted, where the prompt was interrupted and no other needs this call."""
        ...

    def send(self, event: str, data: object, client: ClientId | None = None) -> None:
        """A JSON message to one client's websocket, or to all."""
        ...

    def show_text(self, text: str, node: NodeId, client: ClientId | None = None) -> None:
        """A text on a node, to one client or to all."""
        ...

    def compute(self, op: Op[object]) -> tuple[tuple[object, ...], ...]:
        """Run an op in the shared engine, or take its result from the cache, and wait for it. Ops may be
        nested. Its result, as all results: outputs, each a tuple of items.

        Raises: Interrupted; OpFailed, with what the op raised.
        """
        ...


@frozen
class CallContext:
    """job: the prompt id; list_index: which call of a node that is called once per item of a list.

    A call that serves several prompts at once carries the first one's job, client and node.
    """

    job: JobId
    client: ClientId | None
    node: NodeId
    class_type: str
    list_index: int
    line: Line


CALL: ContextVar[CallContext | None] = ContextVar("tessera_call", default=None)


def current() -> CallContext | None:
    """The call that this code runs in, None outside of one."""
    return CALL.get()
