"""Jobs: what is submitted, what runs, and what is left to do of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from backend.engine.narrate import Narrator
from backend.engine.ready import Claim
from backend.engine.record import JobRecord
from backend.graph.lower import Lowering
from backend.graph.lowered import LoweredNode
from backend.graph.validate import NodeErrors
from backend.types import JobId, JobKey, NodeId, OpKey, Seconds
from backend.values import frozen


@frozen
class Submission:
    """A prompt as it arrived. prompt: the JSON value, unchecked; targets: the only outputs to run."""

    prompt: object
    id: str | None = None
    client: str | None = None
    number: float | None = None
    front: bool = False
    extra: Mapping[str, object] = field(default_factory=dict)
    targets: tuple[str, ...] | None = None


@frozen
class Accepted:
    """The job is on disk and will run. node_errors: outputs that were left out, and why."""

    id: JobId
    number: float
    node_errors: Mapping[NodeId, NodeErrors]


@dataclass(slots=True)
class Job:
    """An unfinished job. nodes_of: the nodes that an op stands for, be it done; unfinished: what a node still
    waits for.

    resumed: nodes that begin a second time; blocked: blockers' messages to tell at a node's end; held:
    results that stay as long as the job; spent: what an expanding node's own call took and shows.
    """

    record: JobRecord
    lowering: Lowering
    narrator: Narrator
    claim: Claim
    preview: str = "none"
    started: bool = False
    nodes_of: dict[OpKey, list[NodeId]] = field(default_factory=dict)
    unfinished: dict[NodeId, set[OpKey]] = field(default_factory=dict)
    cached: list[NodeId] = field(default_factory=list)
    instant: list[NodeId] = field(default_factory=list)  # reference nodes, done while lowering
    resumed: set[NodeId] = field(default_factory=set)
    blocked: dict[NodeId, tuple[str, ...]] = field(default_factory=dict)
    held: list[OpKey] = field(default_factory=list)
    spent: dict[OpKey, tuple[Seconds, Mapping[str, object] | None]] = field(default_factory=dict)
    key: JobKey = field(init=False)

    def __post_init__(self) -> None:
        self.key = JobKey(self.record.sequence)

    @property
    def order(self) -> tuple[float, int]:
        return self.record.number, self.record.sequence

    @property
    def done(self) -> bool:
        return self.lowering.complete and not self.unfinished

    def expect(self, node: LoweredNode, ops: set[OpKey]) -> None:
        """A node was lowered, and is finished once these of its ops are."""
        for key in node.ops:
            self.nodes_of.setdefault(key, []).append(node.id)
        if ops:
            self.unfinished[node.id] = ops

    def expect_again(self, key: OpKey) -> None:
        """An op must run whose result was there, or not wanted, when its nodes were lowered."""
        for id in self.nodes_of.get(key, ()):
            self.unfinished.setdefault(id, set()).add(key)
            if id in self.cached:
                self.cached.remove(id)

    def finish_op(self, key: OpKey) -> list[NodeId]:
        """Returns: the nodes that have nothing left to wait for."""
        return [id for id in self.waiting_for(key) if self._arrived(id, key)]

    def withdraw_op(self, key: OpKey) -> list[NodeId]:
        """The op is gone without a result. Returns: the nodes that it worked for."""
        ids = self.nodes_of.pop(key, [])
        for id in ids:
            if key in self.unfinished.get(id, ()):
                self._arrived(id, key)
        return ids

    def _arrived(self, id: NodeId, key: OpKey) -> bool:
        """Whether this was the last that the node waited for."""
        left = self.unfinished[id]
        left.discard(key)
        if not left:
            del self.unfinished[id]
        return not left

    def expect_composed(self, ids: Sequence[NodeId], key: OpKey) -> None:
        """The nodes are finished once the result is put together that stands for their own."""
        self.nodes_of[key] = list(ids)
        for id in ids:
            self.unfinished.setdefault(id, set()).add(key)

    def waiting_for(self, key: OpKey) -> list[NodeId]:
        """The nodes that can't be finished before the op is."""
        return [id for id in self.nodes_of.get(key, ()) if key in self.unfinished.get(id, ())]

    def node_of(self, key: OpKey) -> NodeId:
        """The first of the nodes that an op stands for: its own, or the one that asked for it."""
        ids = self.nodes_of.get(key)
        return ids[0] if ids else self.lowering.asked[key]

    @property
    def at(self) -> NodeId:
        """The node that the job is at."""
        return self.narrator.running or next(iter(self.unfinished), self.lowering.outputs[0])

    def real(self, id: NodeId) -> NodeId:
        """The node of the submitted prompt that a node is, or came from."""
        return self.lowering.dynamic.place(id).real

    def class_of(self, id: NodeId) -> str:
        return self.lowering.dynamic.nodes[id].class_type
