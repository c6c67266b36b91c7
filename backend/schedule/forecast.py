"""When jobs will be done: an estimate, and how far off such estimates were.

Users share the devices evenly, each one's jobs come in their order, and no job goes faster than its longest
path: that fluid picture gives a time. What it leaves out (loads, batches, who comes later) shows in how
long former jobs took against what was said of them; the interval holds as many of them as it says.
"""

from bisect import insort
from collections import deque
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from backend.types import Seconds
from backend.values import frozen

Key = TypeVar("Key", bound=Hashable)
_KEPT = 200  # former jobs that count
_LEAST = 10  # of them before an interval is more than a guess
_LOW, _HIGH = 0.1, 0.9  # of former jobs lie below and above
_WIDE = (0.5, 3.0)  # the guess
_SHORT = 0.05  # seconds: jobs that were said to take less say nothing of longer ones


@frozen
class Backlog:
    """A job that is not over. order: smaller goes first within a user; work: seconds of devices that it
    still needs; path: seconds that it needs at least.
    """

    user: str
    order: tuple[float, float]
    work: Seconds
    path: Seconds


@frozen
class Forecast:
    """Seconds from now until a job is over: likely, and between which four of five such jobs ended. known:
    whether enough former jobs stand behind that.
    """

    seconds: Seconds
    low: Seconds
    high: Seconds
    known: bool


@dataclass(slots=True)
class Forecaster:
    """Learns from each job that ends."""

    _latest: deque[float] = field(default_factory=deque)
    _sorted: list[float] = field(default_factory=list)

    def learn(self, said: Seconds, took: Seconds) -> None:
        """said: what `fluid` gave when the job came; took: until it was over."""
        if said < _SHORT or took <= 0:
            return
        ratio = took / said
        self._latest.append(ratio)
        insort(self._sorted, ratio)
        if len(self._latest) > _KEPT:
            self._sorted.remove(self._latest.popleft())

    def forecast(self, said: Seconds) -> Forecast:
        if len(self._sorted) < _LEAST:
            return Forecast(said, said * _WIDE[0], said * _WIDE[1], known=False)
        low, middle, high = (self._quantile(share) for share in (_LOW, 0.5, _HIGH))
        return Forecast(said * middle, said * low, said * high, known=True)

    def _quantile(self, share: float) -> float:
        place = share * (len(self._sorted) - 1)
        below = int(place)
        above = min(below + 1, len(self._sorted) - 1)
        return self._sorted[below] + (self._sorted[above] - self._sorted[below]) * (place - below)


def fluid(jobs: Mapping[Key, Backlog], devices: int) -> dict[Key, Seconds]:
    """Seconds until each job is over, if devices were divided among users as a liquid."""
    lines: dict[str, list[tuple[tuple[float, float], int, Key]]] = {}
    for number, (key, job) in enumerate(jobs.items()):
        lines.setdefault(job.user, []).append((job.order, number, key))
    queues = {user: [key for _, _, key in sorted(line)] for user, line in lines.items()}
    ends: dict[Key, Seconds] = {}
    now, left, speed = 0.0, dict.fromkeys(queues, 0.0), float(max(1, devices))
    position = dict.fromkeys(queues, 0)
    for user, queue in queues.items():
        left[user] = jobs[queue[0]].work
    while queues:
        share = speed / len(queues)
        span = min(left[user] for user in queues) / share
        now += span
        for user in list(queues):
            left[user] -= span * share
            if left[user] <= 1e-9:
                _next(jobs, queues, position, left, user, now, ends)
    return ends


def _next(
    jobs: Mapping[Key, Backlog],
    queues: dict[str, list[Key]],
    position: dict[str, int],
    left: dict[str, Seconds],
    user: str,
    now: Seconds,
    ends: dict[Key, Seconds],
) -> None:
    """A user's first job is over; the next one's turn, if there is one."""
    key = queues[user][position[user]]
    ends[key] = max(now, jobs[key].path)
    position[user] += 1
    if position[user] == len(queues[user]):
        del queues[user]
    else:
        left[user] = jobs[queues[user][position[user]]].work
