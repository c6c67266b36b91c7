"""Finished results by content key. How many are kept is a policy (`settings.Cache`); by default as many as
fit a byte budget, and what is cheap to make again goes first.
"""

import heapq
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from backend.engine.shelf import OnDisk, Shelf
from backend.settings import Cache
from backend.types import ClientId, OpKey, Seconds
from backend.worker.messages import Stored

_ENTRY = 2048  # bytes that an entry costs beside its tensors
_CLIENTS = 1024  # whose last prompts are remembered
# Results that are made in a moment, or at more bytes a second than this, are cheap (an inverted image, an
# empty latent): many of them are not worth their memory. Some stay, for the next prompt's sake.
_MOMENT = 0.005  # seconds
_CHEAP_RATE = 0.25e9
_CHEAP_BYTES = 64 << 20


@dataclass(slots=True)
class Result:
    """A finished op. lengths: items per output; seconds: what making it again costs; ui: what its node shows;
    pins: unfinished readers.

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

    shelf: takes what is thrown out, if it is costly enough; free: bytes of memory that the machine has left.
    """

    def __init__(
        self,
        budget: int,
        cache: Cache | None = None,
        shelf: Shelf | None = None,
        free: Callable[[], int] = lambda: 1 << 62,
    ) -> None:
        self._budget, self._used, self._age = budget, 0, 0.0
        self._cache, self._shelf, self._free = cache or Cache(), shelf, free
        self._entries: OrderedDict[OpKey, Result] = OrderedDict()
        self._heap: list[tuple[float, OpKey]] = []
        self._cheap: OrderedDict[OpKey, None] = OrderedDict()  # the last is the most recently used
        self._cheap_used = 0
        self._last: OrderedDict[ClientId | None, frozenset[OpKey]] = OrderedDict()
        self._by_worth = self._cache.kind in ("bytes", "ram")

    @property
    def holds_prompts(self) -> bool:
        """Whether everything that a prompt made or found must be pinned until the prompt is over."""
        return self._cache.kind != "bytes"

    @property
    def remembers(self) -> bool:
        """Whether anything outlives the prompt that made it."""
        return self._cache.kind != "none"

    def __contains__(self, key: OpKey) -> bool:
        return key in self._entries or (self._shelf is not None and key in self._shelf)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        return self._used

    def get(self, key: OpKey) -> Result | None:
        """The entry, marked as used now."""
        result = self._entries.get(key)
        if result is None:
            return self._from_shelf(key)
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
        if result.nbytes > _ENTRY and result.seconds < max(_MOMENT, result.nbytes / _CHEAP_RATE):
            self._cheap[key] = None
            self._cheap_used += result.nbytes
        self._renew(key, result)

    def pin(self, key: OpKey) -> None:
        """A reader that has not run yet: the entry stays until it is unpinned."""
        result = self._entries.get(key) or self._from_shelf(key)
        if result is not None:
            result.pins += 1

    def unpin(self, key: OpKey) -> None:
        result = self._entries.get(key)
        if result is not None and result.pins > 0:
            result.pins -= 1

    def prompt_ended(self, client: ClientId | None, keys: Iterable[OpKey]) -> None:
        """Which results a client's prompt made or used; those of its prompt before go with the next `shrink`
        where only the last prompt's are kept.
        """
        if self._cache.kind == "classic":
            self._last[client] = frozenset(keys)
            self._last.move_to_end(client)
            if len(self._last) > _CLIENTS:
                self._last.popitem(last=False)

    def shrink(self) -> list[OpKey]:
        """Throw out what the policy doesn't keep, never a pinned entry. Returns: what went."""
        match self._cache.kind:
            case "none":
                return self._drop_all(key for key, result in self._entries.items() if not result.pins)
            case "lru":
                spare = len(self._entries) - self._cache.entries
                if spare <= 0:
                    return []
                loose = [key for key, result in self._entries.items() if not result.pins]
                return self._drop_all(loose[:spare])
            case "classic":
                kept = frozenset().union(*self._last.values())
                loose = [key for key, r in self._entries.items() if not r.pins and key not in kept]
                return self._drop_all(loose) + self._drop_cheapest(self._budget)
            case "ram":
                missing = self._cache.headroom - self._free()
                return self._drop_cheapest(self._used - missing) if missing > 0 else []
            case _:
                return self._drop_cheap() + self._drop_cheapest(self._budget)

    def _drop_cheap(self) -> list[OpKey]:
        """Of what is made anew in no time only the most recently used stays."""
        gone, excess = list[OpKey](), self._cheap_used - _CHEAP_BYTES
        for key in self._cheap:
            if excess <= 0:
                break
            if not self._entries[key].pins:
                gone.append(key)
                excess -= self._entries[key].nbytes
        for key in gone:
            self._drop(key, shelve=False)
        return gone

    def _drop_cheapest(self, budget: int) -> list[OpKey]:
        """Throw out unpinned entries, least worth first, until the budget holds."""
        gone: list[OpKey] = []
        kept: list[tuple[float, OpKey]] = []
        while self._used > budget and self._heap:
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
            self._drop(key, shelve=False)
        if self._shelf is not None:
            self._shelf.clear()

    def close(self) -> None:
        """The server ends: nothing of the disk tier stays."""
        if self._shelf is not None:
            self._shelf.close()

    def _renew(self, key: OpKey, result: Result) -> None:
        if self._cache.kind == "lru":
            self._entries.move_to_end(key)
        if key in self._cheap:
            self._cheap.move_to_end(key)
        worth = self._age + (result.seconds + 1e-4) / result.nbytes
        if worth != result.worth:
            result.worth = worth
            heapq.heappush(self._heap, (worth, key))
            if len(self._heap) > 64 + 4 * len(self._entries):
                self._heap = [(r.worth, k) for k, r in self._entries.items()]
                heapq.heapify(self._heap)

    def _from_shelf(self, key: OpKey) -> Result | None:
        """Bring a result back that was thrown out of memory."""
        kept = self._shelf.take(key) if self._shelf is not None else None
        if kept is None:
            return None
        self.put(key, Result(kept.value, kept.lengths, kept.seconds, kept.ui))
        return self._entries[key]

    def _drop_all(self, keys: Iterable[OpKey]) -> list[OpKey]:
        gone = list(keys)
        for key in gone:
            self._drop(key)
        return gone

    def _drop(self, key: OpKey, shelve: bool = True) -> None:
        result = self._entries.pop(key)
        self._used -= result.nbytes
        if key in self._cheap:
            del self._cheap[key]
            self._cheap_used -= result.nbytes
        borrowed = isinstance(result.value, OnDisk)
        if self._shelf is not None and (borrowed or (shelve and self._by_worth)):
            self._shelf.put(key, result.value, result.lengths, result.seconds, result.ui)
        else:
            result.value.close()
