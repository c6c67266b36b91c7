"""The live graph: the unfinished ops of all jobs, merged by content key, and what can run now.

A `networkx.DiGraph` whose edges point from an op to the ops that use its result. An op leaves the graph when
it finishes, or when the last job that wanted it does.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

import networkx as nx

from backend.graph.flatten import inputs_of
from backend.ops import Op
from backend.types import JobKey, OpKey


class State(Enum):
    WAITING = "waiting"
    READY = "ready"
    RUNNING = "running"


@dataclass(slots=True)
class LiveOp:
    """An unfinished op. inputs: the ops whose results it reads, finished ones too."""

    key: OpKey
    op: Op[object]
    inputs: tuple[OpKey, ...]
    jobs: set[JobKey] = field(default_factory=set)
    missing: int = 0
    state: State = State.WAITING


class LiveGraph:
    def __init__(self) -> None:
        self.graph: nx.DiGraph[OpKey] = nx.DiGraph()
        self._live: dict[OpKey, LiveOp] = {}  # the graph's nodes: reading networkx's own views costs more
        self._by_job: dict[JobKey, set[OpKey]] = {}

    def __contains__(self, key: OpKey) -> bool:
        return key in self._live

    def __len__(self) -> int:
        return len(self.graph)

    def __getitem__(self, key: OpKey) -> LiveOp:
        return self._live[key]

    def get(self, key: OpKey) -> LiveOp | None:
        return self._live.get(key)

    def of_job(self, job: JobKey) -> frozenset[OpKey]:
        return frozenset(self._by_job.get(job, ()))

    def add(
        self, job: JobKey, ops: Mapping[OpKey, Op[object]], available: Callable[[OpKey], bool]
    ) -> tuple[list[LiveOp], list[LiveOp]]:
        """Merge a job's wanted ops, given in an order in which inputs come first.

        Returns: the ops that are new to the graph, and those of them that are ready at once.
        """
        new: list[LiveOp] = []
        for key, op in ops.items():
            self._by_job.setdefault(job, set()).add(key)
            if key in self._live:
                self._live[key].jobs.add(job)
                continue
            live = LiveOp(key, op, inputs_of(op), {job})
            self._live[key] = live
            self.graph.add_node(key)
            for source in live.inputs:
                if not available(source):
                    self.graph.add_edge(source, key)
                    live.missing += 1
            new.append(live)
        ready = [live for live in new if live.missing == 0]
        for live in ready:
            live.state = State.READY
        return new, ready

    def finish(self, key: OpKey) -> list[LiveOp]:
        """Take out an op whose result exists now. Returns: the ops that this made ready."""
        ready = []
        for user in list(self.graph.successors(key)):
            live = self[user]
            live.missing -= 1
            if live.missing == 0 and live.state is State.WAITING:
                live.state = State.READY
                ready.append(live)
        self._remove(key)
        return ready

    def leave(self, key: OpKey) -> None:
        """Take out an op that has no result; nothing in the graph reads it."""
        self._remove(key)

    def let_go(self, job: JobKey, key: OpKey) -> LiveOp | None:
        """The job doesn't want this op any more. Returns: the op, if nobody does."""
        live = self._live.get(key)
        if live is None or job not in live.jobs:
            return None
        live.jobs.discard(job)
        self._by_job[job].discard(key)
        if live.jobs:
            return None
        self._remove(key)
        return live

    def drop_job(self, job: JobKey) -> list[LiveOp]:
        """Forget a job. Returns: the ops that nobody wants any more, taken out of the graph."""
        orphans = []
        for key in self._by_job.pop(job, set()):
            live = self[key]
            live.jobs.discard(job)
            if not live.jobs:
                orphans.append(live)
        for live in orphans:
            self._remove(live.key)
        return orphans

    def _remove(self, key: OpKey) -> None:
        for job in self._live.pop(key).jobs:
            self._by_job[job].discard(key)
        self.graph.remove_node(key)


def wanted(
    targets: Iterable[OpKey], ops: Mapping[OpKey, Op[object]], available: Callable[[OpKey], bool]
) -> dict[OpKey, Op[object]]:
    """The ops that must run so that every target exists, inputs first; finished results cut the search."""
    order: dict[OpKey, Op[object]] = {}
    entered: set[OpKey] = set()
    stack = [(key, False) for key in targets]
    while stack:
        key, inputs_done = stack.pop()
        if inputs_done:
            order[key] = ops[key]
        elif key not in entered and not available(key):
            entered.add(key)
            stack.append((key, True))
            stack.extend((source, False) for source in inputs_of(ops[key]) if source not in entered)
    return order
