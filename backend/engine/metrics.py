"""What the engine counts: plain numbers, cheap to add to. `web/prometheus.py` writes them out when asked.

All times are seconds on the engine's clock, all sizes bytes; nothing here is ever reset.
"""

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from backend.ops import OpKind
from backend.types import DeviceId, Seconds
from backend.values import frozen
from backend.worker.messages import Table

Outcome: TypeAlias = Literal["finished", "failed", "cancelled", "lost"]
Part: TypeAlias = Literal["queue", "load", "compute", "transfer", "total"]
PARTS: tuple[Part, ...] = ("queue", "load", "compute", "transfer", "total")
BOUNDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)


class Histogram:
    """Counts of values up to each of `BOUNDS`, and of larger ones behind them; total: their sum."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts, self.total = [0] * (len(BOUNDS) + 1), 0.0

    def add(self, value: Seconds) -> None:
        self.counts[bisect_left(BOUNDS, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        return sum(self.counts)


@frozen
class OpLabel:
    """What ops are counted by. name: the op's class, or the node of a call; component: "" without weights."""

    kind: OpKind
    name: str
    component: str = ""


class OpCounts:
    """Of the ops of one label. runs: from begin to end, of those that finished; compute: their own work."""

    __slots__ = ("compute", "label", "outcomes", "runs")

    def __init__(self, label: OpLabel) -> None:
        self.label, self.runs, self.compute = label, Histogram(), 0.0
        self.outcomes: dict[Outcome, int] = {}

    def ended(self, outcome: Outcome) -> None:
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1

    def finished(self, seconds: Seconds, compute: Seconds) -> None:
        """seconds: since it began on its device; compute: of its own work (0: unknown)."""
        self.ended("finished")
        self.runs.add(seconds)
        self.compute += compute


@dataclass(slots=True)
class CacheCounts:
    """Ops of submitted jobs. hits: needed no run; merged: joined another job's unfinished op; misses: had to
    run. evicted: results thrown out for room.
    """

    hits: int = 0
    merged: int = 0
    misses: int = 0
    evicted: int = 0


@dataclass(slots=True)
class DeviceCounts:
    """loads, evictions: of components. rows: forward passes by their number of rows. deaths: lost workers."""

    loads: int = 0
    evictions: int = 0
    deaths: int = 0
    forwards: int = 0
    shared: int = 0
    rows: Counter[int] = field(default_factory=Counter)

    def take(self, old: Table, new: Table) -> None:
        """Add what a worker did between two of its tables. old: an empty table for a new process."""
        before, now = ({r.component for r in table.resident} for table in (old, new))
        self.loads += len(now - before)
        self.evictions += len(before - now)
        self.forwards += new.forwards - old.forwards
        self.shared += new.shared - old.shared
        passed = Counter(dict(new.sizes))
        passed.subtract(dict(old.sizes))
        self.rows.update(passed)


class Metrics:
    """Everything counted since the server started."""

    def __init__(self) -> None:
        self.waits: dict[OpKind, Histogram] = {}
        self.ops: dict[tuple[OpKind, str, str], OpCounts] = {}
        self.cache = CacheCounts()
        self.devices: dict[DeviceId, DeviceCounts] = {}
        self.jobs: Counter[str] = Counter()
        self.job_parts: dict[Part, Histogram] = {part: Histogram() for part in PARTS}
        self.decisions: Counter[str] = Counter()

    def device(self, id: DeviceId) -> DeviceCounts:
        found = self.devices.get(id)
        if found is None:
            found = self.devices[id] = DeviceCounts()
        return found

    def waited(self, kind: OpKind, seconds: Seconds) -> None:
        """An op was ready for that long before its device began it."""
        found = self.waits.get(kind)
        if found is None:
            found = self.waits[kind] = Histogram()
        found.add(seconds)

    def op(self, kind: OpKind, name: str, component: str = "") -> OpCounts:
        found = self.ops.get((kind, name, component))
        if found is None:
            found = self.ops[kind, name, component] = OpCounts(OpLabel(kind, name, component))
        return found
