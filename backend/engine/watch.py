"""The watchdog: names ops that hang, and frees devices that do not let go of a cancelled one.

A cancelled job is over for its client at once. Its op leaves the device at the next step; what runs whole,
or hangs, can't be asked: after a while its worker process is ended, or its host thread left behind, and what
else ran there runs again.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from backend.engine.board import Board
from backend.engine.fleet import Seat
from backend.engine.trace import OpenOp
from backend.types import OpKey, Seconds

EVERY = 0.5  # seconds between two looks
CANCEL = 1.5  # seconds that a device has to let go of an op; with a look's delay never more than two
SHARED = 10.0  # the same where others' ops would be lost with it
STEPS = 2  # a step op ends between steps: so many of its own are allowed beside these
log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Life:
    """What was last seen of an op. at: when its progress last changed; step: the longest time between."""

    seen: tuple[Seconds | None, float]
    at: Seconds
    step: Seconds = 0.0


class Watch:
    """Looks at what runs, twice a second. limit: seconds without progress after which an op is named."""

    def __init__(self, board: Board, limit: Seconds) -> None:
        self._board, self._limit = board, limit
        self._lives: dict[OpKey, _Life] = {}
        self._cancelled: dict[OpKey, Seconds] = {}  # since when the device has known

    def look(self, now: Seconds) -> None:
        """Name what hangs, end what does not end. now: on the engine's clock."""
        running = self._board.trace.open
        self._lives = {key: life for key, life in self._lives.items() if key in running}
        devices = self._board.pool.devices
        paused = {key for seat in self._board.fleet if seat.id in devices for key in devices[seat.id].paused}
        for key, op in running.items():
            self._follow(key, op, now, key in paused)
        self._end_cancelled(now)

    def _follow(self, key: OpKey, op: OpenOp, now: Seconds, paused: bool) -> None:
        seen = (op.began, op.value)
        life = self._lives.setdefault(key, _Life(seen, now))
        if life.seen != seen or paused:
            if op.value and not paused:
                life.step = max(life.step, now - life.at)
            life.seen, life.at, op.hung = seen, now, False
        elif now - life.at >= self._limit and not op.hung:
            op.hung = True
            jobs = len(self._board.graph[key].jobs) if key in self._board.graph else 0
            log.warning(
                "%s on %s has made no progress for %.0f s (op %s, wanted by %d jobs): it may hang. "
                "Interrupt its job to free the device.",
                *(op.label.name, op.device, now - life.at, key, jobs),
            )

    def _end_cancelled(self, now: Seconds) -> None:
        waiting = {key: seat for seat in self._board.fleet for key in seat.cancelling}
        self._cancelled = {key: self._cancelled.get(key, now) for key in waiting}
        for key, seat in waiting.items():
            if now - self._cancelled[key] < self._patience(key, seat):
                continue
            self._cancelled[key] = now  # it is asked once more if this is not the end of it
            name = self._board.trace.open[key].label.name if key in self._board.trace.open else key
            log.warning("%s on %s was cancelled and does not end; ending it by force", name, seat.id)
            seat.condemned = True
            seat.worker.abandon(key)

    def _patience(self, key: OpKey, seat: Seat) -> Seconds:
        life = self._lives.get(key)
        steps = CANCEL + STEPS * life.step if life is not None else CANCEL
        return max(steps, SHARED) if any(self._others(seat)) else steps

    def _others(self, seat: Seat) -> Iterator[bool]:
        """Whether ops that someone still wants would be lost; a host thread takes no other with it."""
        yield from (seat.is_worker and key not in seat.cancelling for key in seat.running)
