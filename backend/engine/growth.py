"""Jobs grow into the live graph: lowered as far as can be, again whenever a result tells more."""

from collections import OrderedDict
from collections.abc import Sequence

from backend.engine.board import Board
from backend.engine.jobs import Job
from backend.engine.results import Result
from backend.engine.roster import Roster
from backend.graph.frontier import LiveOp, State, wanted
from backend.graph.lowered import MISSING, Composed, LoweredNode, NodeRaised
from backend.ops import Call, Expanded, Needs
from backend.references import Ref
from backend.registry import Registry
from backend.types import NodeId, OpKey
from backend.worker.exchange import Value
from backend.worker.failure import failed
from backend.worker.messages import Failed, Finished, Unfinished

SEEN = 20_000  # reference nodes remembered as done before


class Growth:
    """Lowers jobs, lets the board have what must run for them, and takes in what comes of it."""

    def __init__(self, registry: Registry, board: Board, roster: Roster) -> None:
        self._registry, self._board, self._roster = registry, board, roster
        self._seen: OrderedDict[OpKey, None] = OrderedDict()

    def forget(self) -> None:
        """What was done before counts as new."""
        self._seen.clear()

    def grow(self, job: Job) -> None:
        """Lower what can be lowered now, and let the board have what must run for it."""
        try:
            while self._grow_once(job):
                pass  # expanded nodes have results now: what reads them can be lowered
        except NodeRaised as raised:
            self._fail_raised(job, raised)
            return
        if job.started:
            self._roster.tell_lowered(job)
        wanted = self._board.graph.of_job(job.key)
        if job.done or any(self._board.graph[key].state is State.RUNNING for key in wanted):
            self._roster.begin(job)
        if job.done:
            self._roster.succeed(job)
        elif not wanted and (stuck := job.lowering.stuck):
            self._roster.begin(job)
            self._fail_stuck(job, stuck)

    def _grow_once(self, job: Job) -> bool:
        """Returns: whether it is to be done again. Raises: NodeRaised."""
        first = not job.lowering.nodes
        lowered = job.lowering.advance(self._known, self._lengths)
        for composed in job.lowering.composed:  # first: what has its result now need not run again
            self._keep_composed(job, composed)
        want = wanted(job.lowering.targets, job.lowering.ops, self._board.results.__contains__)
        for node in lowered:
            pending = {key for key in node.ops if key in want or key in job.lowering.composing}
            self._sort(job, node, pending, first)
        for key in want if not first else ():
            job.expect_again(key)
        self._board.want(job.key, job.claim, job.lowering.ordered(want))
        return bool(job.lowering.composed)

    def _sort(self, job: Job, node: LoweredNode, pending: set[OpKey], first: bool) -> None:
        """A lowered node has ops to wait for, or was done before, or is a reference and done now."""
        known = sum(key in self._board.results for key in node.ops)
        self._board.trace.job_cached(job.key, known)
        job.expect(node, pending)
        if pending:
            if node.blocked:
                job.blocked[node.id] = node.blocked
        elif node.ops or (first and node.key in self._seen and self._board.results.remembers):
            job.cached.append(node.id)
            if node.spec.dynamic or node.spec.lazy_names:
                self._hold(job, node.key)
            elif self._board.results.holds_prompts:
                for key in node.ops:
                    self._hold(job, key)
        else:
            job.instant.append(node.id)
            if node.blocked:
                job.blocked[node.id] = node.blocked
            self._seen[node.key] = None
            if len(self._seen) > SEEN:
                self._seen.popitem(last=False)

    def _keep_composed(self, job: Job, composed: Composed) -> None:
        """An expanded node's result is complete."""
        seconds, ui = job.spent.pop(composed.key, (0.0, None))
        lengths = tuple(map(len, composed.outputs))
        self._board.results.put(composed.key, Result(Value.of(composed.outputs), lengths, seconds, ui))
        self._hold(job, composed.key)
        self._roster.begin(job)
        for id in job.finish_op(composed.key):
            job.narrator.node_finished(id, None if id in job.narrator.outputs else ui)

    def _hold(self, job: Job, key: OpKey) -> None:
        """Keep a result as long as the job: what reads it is lowered later."""
        if key in self._board.results:
            self._board.results.pin(key)
            job.held.append(key)

    def _known(self, ref: Ref) -> object:
        result = self._board.results.get(ref.key)
        return MISSING if result is None else result.value.get()[ref.slot][ref.item]

    def _lengths(self, key: OpKey) -> tuple[int, ...] | None:
        result = self._board.results.get(key)
        return None if result is None else result.lengths

    # -- what comes of its ops -------------------------------------------------------------------

    def finished(self, job: Job, done: Finished, own: OpKey | None) -> None:
        """A job has one of its results. own: where it is kept, if others are lowered after it."""
        if own is not None:
            self._hold(job, own)
        elif not job.lowering.complete or self._board.results.holds_prompts:
            self._hold(job, done.key)
        for id in job.finish_op(done.key):
            if own is not None:
                job.lowering.settle(id, own)
            self._roster.tell_finished(job, id, done.ui, done.blocked)
        if done.key in job.lowering.waiting:
            self.grow(job)
        elif job.done:
            self._roster.succeed(job)

    def own_result(self, live: LiveOp) -> OpKey | None:
        """Where the result of a node is kept that others are lowered after; None for all other ops."""
        spec = self._registry.find(live.op.node) if isinstance(live.op, Call) else None
        if spec is None or not isinstance(live.op, Call) or not (spec.dynamic or spec.lazy_names):
            return None
        return live.op.result or live.key

    def unfinished(self, job: Job, report: Unfinished) -> None:
        """A call of the job needs more of its inputs, or other nodes run in its place."""
        ids = job.withdraw_op(report.key)
        try:
            self._go_on(job, ids, report.answer)
        except NodeRaised as raised:
            self._fail_raised(job, raised)
            return
        for id in ids[:1]:
            for message in report.blocked:
                job.narrator.node_blocked(id, job.class_of(id), message)
            job.narrator.node_shows(id, report.ui)
            if isinstance(report.answer, Expanded):
                job.spent[job.lowering.nodes[id].key] = (report.seconds, report.ui)
        self.grow(job)

    def _go_on(self, job: Job, ids: Sequence[NodeId], answer: Needs | Expanded) -> None:
        """Raises: NodeRaised."""
        if isinstance(answer, Needs):
            for id in ids:
                job.lowering.demand(id, answer)
                job.resumed.add(id)
            return
        dynamic = job.lowering.dynamic
        before = len(dynamic.nodes)
        job.lowering.expand(ids[0], answer)
        key = job.lowering.nodes[ids[0]].key
        for id in ids[1:]:
            job.lowering.settle(id, key)
        job.expect_composed(ids, key)
        for id in list(dynamic.nodes)[before:]:
            job.narrator.places[id] = dynamic.place(id)

    # -- what can't be lowered -------------------------------------------------------------------

    def _fail_raised(self, job: Job, raised: NodeRaised) -> None:
        self._roster.begin(job)
        inputs = {name: (value,) for name, value in raised.inputs.items()}
        self._roster.fail(job, raised.node, failed(OpKey(""), raised.cause, inputs, ()))

    def _fail_stuck(self, job: Job, stuck: Sequence[NodeId]) -> None:
        """Nodes wait for each other. Those of the submitted prompt did not before one of them expanded."""
        places = (job.lowering.dynamic.place(id) for id in stuck)
        blamed = next((p.display for p, id in zip(places, stuck, strict=True) if p.display != id), stuck[0])
        error = Failed(OpKey(""), "graph.DependencyCycleError", "Dependency cycle detected", (), None)
        self._roster.fail(job, blamed, error)
