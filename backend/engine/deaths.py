"""Which ops are to blame for the deaths of workers.

An op that ends its worker is there whenever one dies. Where workers are killed for other reasons, by the
system or by hand, many ops see deaths, and each of them sees others that it had no part in.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from backend.types import OpKey, Seconds

DEATHS = 3  # workers that an op may take down before it is given up
MOST = 9  # the same where workers die without it as often as with it
SPAN = 600.0  # seconds of deaths before an op's first that speak for it


@dataclass(slots=True)
class _Record:
    """before: deaths of workers, in all, until `SPAN` before the first that this op saw."""

    seen: int
    before: int


class Deaths:
    """Counts, for unfinished ops, the workers that died while the op was on them."""

    def __init__(self) -> None:
        self._all = 0
        self._recent: deque[Seconds] = deque()
        self._records: dict[OpKey, _Record] = {}

    def add(self, running: Iterable[OpKey], now: Seconds) -> None:
        """A worker died with these ops on it."""
        while self._recent and self._recent[0] < now - SPAN:
            self._recent.popleft()
        before = self._all - len(self._recent)
        for key in running:
            self._records.setdefault(key, _Record(0, before)).seen += 1
        self._all += 1
        self._recent.append(now)

    def seen_by(self, key: OpKey) -> int:
        """Deaths that the op was there for; 0 for one that is not suspected of any."""
        return self._records[key].seen if key in self._records else 0

    def convicts(self, key: OpKey) -> bool:
        """Whether the op is to be given up."""
        record = self._records.get(key)
        if record is None or record.seen < DEATHS:
            return False
        without = self._all - record.before - record.seen
        return without < record.seen or record.seen >= MOST

    def forget(self, key: OpKey) -> None:
        """The op has ended, or no one wants it any more."""
        self._records.pop(key, None)
