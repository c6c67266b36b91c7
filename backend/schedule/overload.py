"""What goes last while more work comes than can be done: the largest jobs with a deadline, so that the fewest
are late.

Of the jobs that came lately, the smaller are due as far as the devices suffice for all of them; what is left
of a larger one is deferred: it runs where nothing else wants a device, and is dropped when it can no longer
be in time. How long it may wait for that is its deadline's matter, so nothing has to be foretold. Jobs
without a deadline only wait.
"""

from bisect import bisect_left, insort
from collections import OrderedDict, deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from math import exp, inf

from backend.types import Seconds

SPAN = 90.0  # seconds that count as lately
_BUSY = 0.85  # of their time devices compute in
_OFTEN = 0.5  # seconds after which to look again where the limit lies
_KEPT = 20_000  # jobs that are known to have come
_LEAST = 20  # jobs that say something of what comes
_KEEP = 0.98  # of what is known of the pace, when one more op has ended
_HASTY, _LEARN, _SHORTEST = 0.1, 0.1, 0.01  # share of ops below `Haste`; weight of one more; at first
_START = 30.0  # device seconds that the first guess of the pace counts like


@dataclass(slots=True)
class Overload:
    """limit: seconds of work; what is larger is deferred."""

    limit: Seconds = inf
    _came: deque[tuple[Seconds, Seconds]] = field(default_factory=deque)
    _sizes: list[Seconds] = field(default_factory=list)
    _known: OrderedDict[Hashable, None] = field(default_factory=OrderedDict)
    _first: Seconds = inf
    _looked: Seconds = -inf

    def defers(self, job: Hashable, work: Seconds, pace: float, now: Seconds) -> bool:
        """Whether a job's op is deferred. work: what is left of the job; pace: seconds of work that all
        devices do in a second.
        """
        if job not in self._known:
            self._known[job] = None
            if len(self._known) > _KEPT:
                self._known.popitem(last=False)
            self._note(work, now)
        if not 0 <= now - self._looked < _OFTEN:
            self._looked = now
            self.limit = self._limit(_BUSY * pace, now)
        return work > self.limit

    def _note(self, work: Seconds, now: Seconds) -> None:
        self._first = min(self._first, now)
        self._came.append((now, work))
        insort(self._sizes, work)
        while self._came[0][0] < now - SPAN:
            _, gone = self._came.popleft()
            del self._sizes[bisect_left(self._sizes, gone)]

    def _limit(self, pace: float, now: Seconds) -> Seconds:
        if len(self._sizes) < _LEAST:
            return inf
        left = pace * max(SPAN / 3, min(SPAN, now - self._first))
        for size in self._sizes:
            left -= size
            if left < 0:
                return size
        return inf


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
