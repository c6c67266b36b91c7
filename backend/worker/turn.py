"""A thread's turn at calls, and what a running call says and asks through it."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeAlias

from backend.calling import Picture
from backend.errors import Interrupted
from backend.ops import Op
from backend.types import ClientId, NodeId, OpKey
from backend.worker.exchange import Outputs
from backend.worker.messages import Asked, HostCall, Preview, Progress, Report, Said
from backend.worker.threads import Threads

_PATIENCE = 0.2  # seconds between two looks whether a waiting call was cancelled


@dataclass(slots=True, eq=False)
class Turn:
    """A thread at work, or a task of the foreign thread (pool None).

    held: reports that wait; left: it was given up, and says nothing any more; cancelled: calls that are to
    stop where they can.
    """

    pool: Threads | None
    calls: Sequence[HostCall] = ()
    thread: threading.Thread = field(default_factory=threading.current_thread)
    held: list[Report] = field(default_factory=list)
    left: bool = False
    cancelled: set[OpKey] = field(default_factory=set)
    task: "asyncio.Task[None] | None" = None


# makes a report out of a turn
Tell: TypeAlias = Callable[[Turn, Report], None]


class CallLine:
    """A call's way to the engine (`backend.calling.Line`)."""

    __slots__ = ("_key", "_tell", "_turn")

    def __init__(self, key: OpKey, turn: Turn, tell: Tell) -> None:
        self._key, self._turn, self._tell = key, turn, tell

    def check(self) -> None:
        if self._turn.left or self._key in self._turn.cancelled:
            raise Interrupted

    def progress(
        self, value: float, total: float, picture: Picture | None = None, node: NodeId | None = None
    ) -> None:
        self.check()
        if picture is not None:
            self._tell(self._turn, Preview(self._key, picture.image, picture.format, node))
        self._tell(self._turn, Progress(self._key, min(value, total), total, node))

    def show(self, pictures: Sequence[bytes]) -> None:
        """Pictures for the client, each followed by how many went before: the socket sends them together."""
        for number, picture in enumerate(pictures):
            reports = (Preview(self._key, picture, "PNG"), Progress(self._key, number, len(pictures)))
            self._turn.held.extend(reports)

    def send(self, event: str, data: object, client: ClientId | None = None) -> None:
        self._tell(self._turn, Said(event, data, client))

    def show_text(self, text: str, node: NodeId, client: ClientId | None = None) -> None:
        self._tell(self._turn, Said("text", text, client, node))

    def compute(self, op: Op[object]) -> Outputs:
        self.check()
        reply: Future[Outputs] = Future()
        self._tell(self._turn, Asked(self._key, op, reply))
        while True:
            try:
                return reply.result(_PATIENCE)
            except TimeoutError:
                self.check()
