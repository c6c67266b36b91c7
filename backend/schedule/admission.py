"""Admission by size: while more work comes than can be done, the fewest jobs with a deadline are refused,
and at once.

Of the jobs that came lately, the smaller are taken as far as the devices suffice for all of them; a larger
one is refused when it comes, instead of when it is late, so that nothing is computed for it in vain. Jobs
without a deadline only wait.
"""

from bisect import bisect_left, insort
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from math import inf

from backend.schedule.pool import ReadyOp
from backend.types import Seconds

SPAN = 90.0  # seconds that count as lately
_KEPT = 20_000  # jobs whose answer is remembered
_LEAST = 20  # jobs that say something of what comes


@dataclass(slots=True)
class Admission:
    """limit: seconds of work; larger jobs are refused."""

    limit: Seconds = inf
    _came: deque[tuple[Seconds, Seconds]] = field(default_factory=deque)
    _sizes: list[Seconds] = field(default_factory=list)
    _answers: OrderedDict[object, bool] = field(default_factory=OrderedDict)
    _first: Seconds | None = None

    def takes(self, op: ReadyOp, capacity: float, now: Seconds) -> bool:
        """Whether the job of an op is taken: the same answer for all of its ops. capacity: of work a
        second.
        """
        job = (op.user, op.order)
        known = self._answers.get(job)
        if known is None:
            self._note(op.path, now)
            self._learn(capacity, now)
            known = self._answers[job] = op.path <= self.limit
            if len(self._answers) > _KEPT:
                self._answers.popitem(last=False)
        return known

    def _note(self, work: Seconds, now: Seconds) -> None:
        self._first = now if self._first is None else self._first
        self._came.append((now, work))
        insort(self._sizes, work)
        while self._came[0][0] < now - SPAN:
            _, gone = self._came.popleft()
            del self._sizes[bisect_left(self._sizes, gone)]

    def _learn(self, capacity: float, now: Seconds) -> None:
        assert self._first is not None
        self.limit = inf
        left = capacity * max(SPAN / 3, min(SPAN, now - self._first))
        if len(self._sizes) < _LEAST:
            return
        for size in self._sizes:
            left -= size
            if left < 0:
                self.limit = size
                return
