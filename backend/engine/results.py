"""Finished results by content key, under a byte budget. What is cheap to make again goes first."""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass

from backend.types import OpKey, Seconds
from backend.worker.messages import Stored

_ENTRY = 2048  # bytes that an entry costs beside its tensors


@dataclass(slots=True)
class Result:
    """A finished op. lengths: items per output; ui: what its node shows; pins: unfinished readers.

    nbytes: what it counted for when it was put, set by `Results`.
    """

    value: Stored
    lengths: tuple[int, ...]
    seconds: Seconds
    ui: Mapping[str, object] | None = None
    nbytes: int = 0
    pins: int = 0
    worth: float = 0.0


class Results:
    """GreedyDual-Size (Cao & Irani 1997): an entry's worth is its cost per byte, plus the worth of the last
    entry thrown out, renewed at each use. So costly results outlive cheap ones, and unused ones age.
    """

    def __init__(self, budget: int) -> None:
        self._budget, self._used, self._age = budget, 0, 0.0
        self._entries: dict[OpKey, Result] = {}
        self._heap: list[tuple[float, OpKey]] = []

    def __contains__(self, key: OpKey) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        return self._used

    def get(self, key: OpKey) -> Result | None:
        """The entry, marked as used now."""
        result = self._entries.get(key)
        if result is not None:
            self._renew(key, result)
        return result

    def put(self, key: OpKey, result: Result) -> None:
        """Keep a result; an equal one that is here already stays, and the new one is given back."""
        if key in self._entries:
            result.value.close()
            return
        self._entries[key] = result
        result.nbytes = result.value.nbytes + _ENTRY
        self._used += result.nbytes
        self._renew(key, result)

    def pin(self, key: OpKey) -> None:
        """A reader that has not run yet: the entry stays until it is unpinned."""
        if key in self._entries:
            self._entries[key].pins += 1

    def unpin(self, key: OpKey) -> None:
        result = self._entries.get(key)
        if result is not None and result.pins > 0:
            result.pins -= 1

    def shrink(self) -> list[OpKey]:
        """Throw out unpinned entries, least worth first, until the budget holds. Returns: what went."""
        gone: list[OpKey] = []
        kept: list[tuple[float, OpKey]] = []
        while self._used > self._budget and self._heap:
            worth, key = heapq.heappop(self._heap)
            result = self._entries.get(key)
            if result is None or result.worth != worth:
                continue  # an older mark of an entry that was used again or is gone
            if result.pins:
                kept.append((worth, key))
                continue
            self._age = worth
            self._drop(key)
            gone.append(key)
        for mark in kept:
            heapq.heappush(self._heap, mark)
        return gone

    def clear(self) -> None:
        """Throw out everything that no one is about to read."""
        for key in [k for k, r in self._entries.items() if not r.pins]:
            self._drop(key)

    def _renew(self, key: OpKey, result: Result) -> None:
        worth = self._age + (result.seconds + 1e-4) / result.nbytes
        if worth != result.worth:
            result.worth = worth
            heapq.heappush(self._heap, (worth, key))
            if len(self._heap) > 64 + 4 * len(self._entries):
                self._heap = [(r.worth, k) for k, r in self._entries.items()]
                heapq.heapify(self._heap)

    def _drop(self, key: OpKey) -> None:
        result = self._entries.pop(key)
        self._used -= result.nbytes
        result.value.close()
