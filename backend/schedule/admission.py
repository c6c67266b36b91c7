"""Admission by size: while more work comes than can be done, the fewest jobs with a deadline are refused, and
at once, so that nothing is computed for them in vain.

Of the jobs that came lately, the smaller are taken as far as the devices suffice for all of them; a larger
one is refused when it comes, unless what waits is little. Jobs without a deadline only wait.
"""

from bisect import bisect_left, insort
from collections import OrderedDict, deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from math import exp, inf

from backend.types import Seconds

SPAN = 90.0  # seconds that count as lately
_KEPT = 20_000  # jobs whose answer is remembered
_LEAST = 20  # jobs that say something of what comes
_KEEP = 0.98  # of what is known of the pace, when one more op has ended
_HASTY, _LEARN, _SHORTEST = 0.1, 0.1, 0.01  # share of ops below `Haste`; weight of one more; at first
_START = 30.0  # device seconds that the first guess of the pace counts like


@dataclass(slots=True)
class Admission:
    """limit: seconds of work; larger jobs are refused."""

    limit: Seconds = inf
    _came: deque[tuple[Seconds, Seconds]] = field(default_factory=deque)
    _sizes: list[Seconds] = field(default_factory=list)
    _answers: OrderedDict[Hashable, bool] = field(default_factory=OrderedDict)
    _first: Seconds | None = None

    def takes(self, job: Hashable, work: Seconds, pace: float, now: Seconds, calm: bool = False) -> bool:
        """Whether a job is taken: the same answer each time. pace: seconds of work that all devices do in a
        second. calm: those with least time to spare could wait for all that waits.
        """
        known = self._answers.get(job)
        if known is None:
            self._note(work, now)
            self._learn(pace, now)
            known = self._answers[job] = calm or work <= self.limit
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

    def _learn(self, pace: float, now: Seconds) -> None:
        assert self._first is not None
        self.limit = inf
        left = pace * max(SPAN / 3, min(SPAN, now - self._first))
        if len(self._sizes) < _LEAST:
            return
        for size in self._sizes:
            left -= size
            if left < 0:
                self.limit = size
                return


@dataclass(slots=True)
class Haste:
    """value: of the ops that came with a deadline a tenth had less time to spare."""

    value: Seconds = inf

    def note(self, spare: Seconds) -> None:
        """Each op moves the quantile a little towards where it belongs."""
        if self.value == inf:
            self.value = max(_SHORTEST, spare)
        else:
            self.value *= exp(_LEARN * (_HASTY - (spare < self.value)))


@dataclass(slots=True)
class Pace:
    """How much work a device does in a second of computing, each op counted as if it ran alone: shared passes
    do more.
    """

    alone: Seconds = _START
    taken: Seconds = _START

    def note(self, alone: Seconds, taken: Seconds) -> None:
        """An op has ended. taken: of a device, its share of passes."""
        self.alone = _KEEP * self.alone + alone
        self.taken = _KEEP * self.taken + taken

    @property
    def value(self) -> float:
        return self.alone / self.taken if self.taken else 1.0
