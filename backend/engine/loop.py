"""The engine: jobs in, events out. Reports and submissions change the live graph; `plan()` says what starts.

Everything here runs on the event loop's thread, top to bottom: submit -> _admit -> _grow -> _dispatch ->
(a worker) -> _finished -> _grow or _succeed.
"""

import asyncio
import logging
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from sortedcontainers import SortedKeyList

from backend.engine.clock import Clock
from backend.engine.events import Event, QueueChanged
from backend.engine.fleet import HOST, STARTS, Fleet, Seat, Worker
from backend.engine.jobs import Accepted, Job, Submission
from backend.engine.narrate import Narrator
from backend.engine.results import Result, Results
from backend.engine.record import SECRETS, JobRecord, JobStatus, without_secrets
from backend.engine.store import Store
from backend.engine.view import DeviceView, PoolView
from backend.errors import GraphError, WorkerLost
from backend.graph.frontier import LiveGraph, LiveOp, State, wanted
from backend.graph.lower import MISSING, Lowering, NodeRaised, Submitter
from backend.graph.parse import Prompt, parse_prompt
from backend.graph.validate import Refused, validate
from backend.ops import Call, Denoise, Op
from backend.references import CfgGuider, Ref, Weights
from backend.registry import Registry
from backend.schedule.policy import plan
from backend.schedule.pool import Pool, ReadyOp, Run
from backend.types import ClientId, DeviceId, JobId, JobKey, NodeId, OpKey
from backend.worker.failure import failed
from backend.worker.messages import (
    DeviceInfo,
    Failed,
    Finished,
    Lost,
    OpCancelled,
    Preview,
    Progress,
    Ready,
    Report,
    Started,
    Table,
)

log = logging.getLogger(__name__)
DEATHS = 3  # workers that an op may take down before it is given up
SEEN = 20_000  # reference nodes remembered as done before
DECISIONS = 64  # last decisions kept for the pool view


@dataclass(frozen=True, slots=True)
class Limits:
    """cache_bytes: budget of finished results; preview: the server's default method; preview_size in pixels."""

    cache_bytes: int = 4 << 30
    preview: str = "none"
    preview_size: int = 512


class Engine:
    """Owns every unfinished job. `make_worker` starts (or restarts) the process of a device."""

    def __init__(
        self,
        registry: Registry,
        services: Mapping[type, object],
        store: Store,
        clock: Clock,
        limits: Limits,
    ) -> None:
        self.store = store
        self._registry, self._services, self._clock, self._limits = registry, services, clock, limits
        self._fleet = Fleet([])
        self._make: dict[DeviceId, Callable[[], Worker]] = {}
        self._jobs: dict[JobKey, Job] = {}
        self._graph = LiveGraph()
        self._results = Results(limits.cache_bytes)
        self._calls: SortedKeyList[ReadyOp, tuple[float, int]] = SortedKeyList(key=lambda op: op.order)
        self._ready: SortedKeyList[ReadyOp, tuple[float, int]] = SortedKeyList(key=lambda op: op.order)
        self._ready_by_key: dict[OpKey, ReadyOp] = {}
        self._deaths: dict[OpKey, int] = {}
        self._seen: OrderedDict[OpKey, None] = OrderedDict()
        self._listeners: list[Callable[[Event], None]] = []
        self._decisions: deque[Run] = deque(maxlen=DECISIONS)
        self._inbox: deque[tuple[DeviceId, Report]] = deque()
        self._woken = False
        self._closing = False
        self._loop: asyncio.AbstractEventLoop | None = None

    # -- life ------------------------------------------------------------------------------------

    def add_device(self, id: DeviceId, make: Callable[[], Worker], slots: int, max_rows: int = 0) -> None:
        """Give the engine a device; `make` starts its worker, now and after each death. Call after start()."""
        self._make[id] = make
        self._fleet.add(Seat(id, make(), slots, max_rows))
        self._dispatch()

    async def start(self) -> None:
        """Take up the jobs that a former run of the server left unfinished. They run once devices are there."""
        self._loop = asyncio.get_running_loop()
        for record in await self.store.unfinished():
            self._recover(record)

    async def close(self) -> None:
        """Stop every device. Unfinished jobs stay in the store and run after the next start."""
        self._closing = True
        await asyncio.gather(*(asyncio.to_thread(seat.worker.stop) for seat in self._fleet))

    def subscribe(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    # -- what the edge asks ----------------------------------------------------------------------

    async def submit(self, request: Submission) -> Accepted:
        """Check a prompt, put it on disk, and take it into the live graph.

        Raises: Refused (with ComfyUI's error shape) where nothing of it can run.
        """
        if request.number is None:
            place = self.store.next_number()
            number = float(-place if request.front else place)
        else:
            number = request.number
        checked = validate(parse_prompt(request.prompt), self._registry, self._services, request.targets)
        now = self._clock.epoch_ms()
        record = JobRecord(
            id=JobId(request.id or str(uuid.uuid4())),
            number=number,
            sequence=self.store.next_sequence(),
            prompt=checked.prompt.to_json(),
            targets=checked.outputs,
            created=now,
            client=ClientId(request.client) if request.client else None,
            extra={"create_time": now, **request.extra},
        )
        await self.store.add(record)
        self._admit(record, checked.prompt)
        return Accepted(record.id, number, checked.errors)

    def queue(self) -> tuple[list[JobRecord], list[JobRecord]]:
        """Running and pending jobs, each in the order in which they run."""
        jobs = sorted(self._jobs.values(), key=lambda job: job.order)
        return [j.record for j in jobs if j.started], [j.record for j in jobs if not j.started]

    def remaining(self) -> int:
        return len(self._jobs)

    async def cancel_pending(self, ids: Sequence[JobId] | None) -> None:
        """Take jobs that have not started out of the queue (None: all of them)."""
        for job in [j for j in self._jobs.values() if not j.started and (ids is None or j.record.id in ids)]:
            self._forget(job)
            self._emit(QueueChanged(self.remaining()))
            await self.store.remove_pending([job.record.sequence])

    async def interrupt(self, id: JobId | None) -> None:
        """Stop a running job (None: whatever runs). Pending jobs are left alone."""
        for job in [j for j in self._jobs.values() if j.started and id in (None, j.record.id)]:
            node = job.narrator.running or next(iter(job.unfinished), job.lowering.outputs[0])
            job.narrator.interrupted(node, job.class_of(node))
            self._end(job, "cancelled")

    async def free(self, unload_models: bool, free_memory: bool) -> None:
        """Let workers drop their weights; free_memory also forgets every result that nobody waits for."""
        if unload_models or free_memory:
            for seat in self._fleet:
                seat.worker.unload()
        if free_memory:
            self._results.clear()
            self._seen.clear()

    def running_node(self, client: ClientId) -> NodeId | None:
        """The node that this client's running job is at: a reconnecting socket is told it."""
        mine = (j for j in self._jobs.values() if j.started and j.record.client == client)
        return next((node for j in mine if (node := j.narrator.running) is not None), None)

    def devices(self) -> list[DeviceInfo]:
        return [seat.info for seat in self._fleet if seat.info is not None]

    def pool_view(self) -> PoolView:
        devices = tuple(
            DeviceView(s.id, s.info, s.table, tuple(s.running), s.usable, s.deaths) for s in self._fleet
        )
        running, pending = self.queue()
        return PoolView(
            devices,
            tuple(r.id for r in running),
            tuple(r.id for r in pending),
            len(self._graph),
            len(self._results),
            self._results.nbytes,
            tuple(self._decisions),
        )

    # -- a job's way -----------------------------------------------------------------------------

    def _recover(self, record: JobRecord) -> None:
        try:
            checked = validate(parse_prompt(record.prompt), self._registry, self._services, record.targets)
        except Refused as refused:  # a node pack or a file went away while the server was down
            log.warning("job %s can no longer run: %s", record.id, refused)
            error = _refusal(record, refused)
            ended = self._clock.epoch_ms()
            messages = (("execution_error", error),)
            self.store.finish(replace(record, status="failed", ended=ended, messages=messages, error=error))
            return
        self._admit(record, checked.prompt)

    def _admit(self, record: JobRecord, prompt: Prompt) -> None:
        """Take a job into the live graph: lower it as far as can be, merge its ops with everybody's."""
        pnginfo = record.extra.get("extra_pnginfo")
        tokens = {name.upper(): value for name, value in record.extra.items() if name in SECRETS}
        submitter = Submitter(JobKey(record.sequence), record.client, pnginfo, tokens)
        lowering = Lowering(prompt, record.targets, self._registry, self._services, submitter)
        narrator = Narrator(record.id, record.client, self._emit, self._clock)
        job = Job(
            without_secrets(record),
            lowering,
            narrator,
            str(record.extra.get("preview_method") or self._limits.preview),
        )
        self._jobs[job.key] = job
        self._emit(QueueChanged(self.remaining()))
        self._grow(job)
        self._dispatch()

    def _grow(self, job: Job) -> None:
        """Lower what can be lowered now, and add what must run for it to the live graph."""
        first = not job.lowering.nodes
        try:
            lowered = job.lowering.advance(self._known, self._lengths)
        except NodeRaised as raised:
            self._begin(job)
            self._fail(job, raised.node, _failure(raised))
            return
        want = wanted(job.lowering.targets, job.lowering.ops, self._results.__contains__)
        for node in lowered:
            pending = {key for key in node.ops if key in want}
            if pending:
                job.expect(node, pending)
            elif node.ops or (first and node.key in self._seen):
                job.cached.append(node.id)
            else:
                job.instant.append(node.id)
                self._remember(node.key)
        new, ready = self._graph.add(job.key, want, self._results.__contains__)
        for live in new:
            for source in live.inputs:
                self._results.pin(source)
        for live in ready:
            self._make_ready(live)
        if job.started:
            self._tell_lowered(job)
        if job.done or any(self._graph[key].state is State.RUNNING for key in want):
            self._begin(job)
        if job.done:
            self._succeed(job)

    def _begin(self, job: Job) -> None:
        """The job starts: its first op runs, or nothing of it has to."""
        if job.started:
            return
        job.started = True
        job.record = replace(job.record, status="running", started=self._clock.epoch_ms())
        self.store.mark_started(job.record.sequence, self._clock.epoch_ms())
        self._emit(QueueChanged(self.remaining()))
        in_order = [id for id in job.lowering.prompt.nodes if id in set(job.cached)]
        job.narrator.started(in_order)
        for id in job.lowering.outputs:
            if id in job.cached:
                job.narrator.node_cached(id, self._ui(job, id))
        job.cached.clear()
        self._tell_lowered(job)
        for key in self._graph.of_job(job.key):
            if self._graph[key].state is State.RUNNING:
                self._tell_running(job, key)

    def _tell_lowered(self, job: Job) -> None:
        for id in (*job.cached, *job.instant):
            job.narrator.node_finished(id, self._ui(job, id))
        job.cached.clear()
        job.instant.clear()

    def _tell_running(self, job: Job, key: OpKey) -> None:
        for id in job.nodes_of.get(key, ()):
            job.narrator.node_running(id)

    def _ui(self, job: Job, id: NodeId) -> Mapping[str, object] | None:
        for key in job.lowering.nodes[id].ops:
            result = self._results.get(key)
            if result is not None and result.ui is not None:
                return result.ui
        return None

    def _succeed(self, job: Job) -> None:
        job.narrator.succeeded()
        self._end(job, "completed")

    def _fail(self, job: Job, node: NodeId, error: Failed) -> None:
        told = job.narrator.failed(node, job.class_of(node), error, tuple(job.narrator.outputs))
        self._end(job, "failed", told)

    def _end(self, job: Job, status: JobStatus, error: Mapping[str, object] | None = None) -> None:
        """Every started job comes here once, whatever became of it."""
        narrator = job.narrator
        self._forget(job)
        ended = replace(
            job.record,
            status=status,
            ended=self._clock.epoch_ms(),
            outputs=narrator.outputs,
            meta=narrator.meta,
            messages=tuple(narrator.messages),
            error=error,
        )
        self.store.finish(ended)
        self._emit(QueueChanged(self.remaining()))
        narrator.ended()

    def _forget(self, job: Job) -> None:
        """Take a job's ops out of the live graph, but for those that another job needs."""
        self._jobs.pop(job.key, None)
        for live in self._graph.drop_job(job.key):
            self._unready(live.key)
            for source in live.inputs:
                self._results.unpin(source)
            if live.state is State.RUNNING:
                self._fleet.cancel(live.key)

    # -- what runs -------------------------------------------------------------------------------

    def _make_ready(self, live: LiveOp) -> None:
        if self._fleet.busy(live.key):
            return  # a device is still dropping this op for someone who cancelled; it is readied after that
        order = min(self._jobs[id].order for id in live.jobs)
        spec = self._registry.find(live.op.node) if isinstance(live.op, Call) else None
        ready = _ready_op(live, order, self._clock.now(), serial=spec is not None and spec.serial)
        if self._deaths.get(live.key):
            ready = replace(ready, alone=True)
        self._ready_by_key[live.key] = ready
        (self._calls if ready.kind == "host" else self._ready).add(ready)

    def _unready(self, key: OpKey) -> None:
        ready = self._ready_by_key.pop(key, None)
        if ready is not None:
            (self._calls if ready.kind == "host" else self._ready).remove(ready)

    def _dispatch(self) -> None:
        """Ask `plan()` what starts now, and start it."""
        if self._closing or not (self._calls or self._ready):
            return
        for decision in plan(Pool(self._fleet.snapshot(), self._calls, self._ready)):
            self._decisions.append(decision)
            self._start(decision)

    def _start(self, decision: Run) -> None:
        live = self._graph[decision.key]
        ready = self._ready_by_key[decision.key]
        self._unready(decision.key)
        live.state = State.RUNNING
        seat = self._fleet.assign(decision.device, ready)
        inputs = {key: result.value for key in live.inputs if (result := self._results.get(key)) is not None}
        jobs = [self._jobs[id] for id in live.jobs]
        preview = next((j.preview for j in jobs if j.preview != "none"), "none")
        seat.worker.run(live.key, live.op, inputs, preview, self._limits.preview_size)
        for job in jobs:
            self._begin(job)
            self._tell_running(job, live.key)

    # -- reports ---------------------------------------------------------------------------------

    def report(self, device: DeviceId, report: Report) -> None:
        """A device says something. Callable from any thread; handled in order on the loop's."""
        self._inbox.append((device, report))
        if not self._woken and self._loop is not None and not self._loop.is_closed():
            self._woken = True
            self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        self._woken = False
        while self._inbox:
            device, report = self._inbox.popleft()
            if not self._closing:
                self._take(device, report)
        self._results.shrink()
        self._dispatch()

    def _take(self, device: DeviceId, report: Report) -> None:
        seat = self._fleet[device]
        match report:
            case Finished():
                seat.deaths = 0
                self._finished(report)
            case Progress(key, value, maximum):
                for job, id in self._told_of(key):
                    job.narrator.node_progress(id, value, maximum)
            case Preview(key, image):
                for job, id in self._told_of(key):
                    job.narrator.node_preview(id, image)
            case Failed(key):
                self._failed(report)
            case OpCancelled(key):
                self._fleet.release(key)
                self._ready_again(key)
            case Ready(info):
                seat.info, seat.lost = info, False
            case Table():
                seat.table = report
            case Lost(reason):
                self._lost(seat, reason)
            case Started():
                pass  # the node was announced when the op was sent

    def _told_of(self, key: OpKey) -> list[tuple[Job, NodeId]]:
        if key not in self._graph:
            return []
        jobs = [self._jobs[id] for id in self._graph[key].jobs]
        return [(job, id) for job in jobs for id in job.nodes_of.get(key, ())]

    def _finished(self, done: Finished) -> None:
        key = done.key
        self._fleet.release(key)
        self._deaths.pop(key, None)
        self._results.put(key, Result(done.value, done.lengths, done.seconds, done.ui))
        if key not in self._graph:
            return  # everyone who wanted it has gone; the result may serve the next one
        live = self._graph[key]
        self._unready(key)
        for _ in self._graph.graph.successors(key):
            self._results.pin(key)
        jobs = [self._jobs[id] for id in live.jobs]
        for ready in self._graph.finish(key):
            self._make_ready(ready)
        for source in live.inputs:
            self._results.unpin(source)
        for job in jobs:
            for id in job.finish_op(key):
                job.narrator.node_finished(id, done.ui)
            if key in job.lowering.waiting:
                self._grow(job)
            elif job.done:
                self._succeed(job)

    def _failed(self, error: Failed) -> None:
        self._fleet.release(error.key)
        if error.key not in self._graph:
            return
        for id in list(self._graph[error.key].jobs):
            job = self._jobs[id]
            nodes = job.nodes_of.get(error.key) or list(job.lowering.outputs)
            self._fail(job, nodes[0], error)

    def _ready_again(self, key: OpKey) -> None:
        """An op whose device let go of it, and that someone still (or again) wants."""
        if key in self._graph:
            live = self._graph[key]
            live.state = State.READY
            self._make_ready(live)

    def _lost(self, seat: Seat, reason: str) -> None:
        """A worker's process is gone: its ops are ready again, and a new process takes its place."""
        seat.info, seat.table, seat.deaths = None, Table(()), seat.deaths + 1
        running = list(seat.running)
        log.warning("worker %s ended (%s) with %d ops; starting another", seat.id, reason, len(running))
        for key in running:
            self._fleet.release(key)
            self._deaths[key] = self._deaths.get(key, 0) + 1
            if self._deaths[key] >= DEATHS and key in self._graph:
                lost = WorkerLost(type(self._graph[key].op).__name__, self._deaths.pop(key), reason)
                self._failed(Failed(key, "WorkerLost", str(lost), (str(lost),)))
            else:
                self._ready_again(key)
        if seat.deaths >= STARTS and not running:
            self._give_up(seat, reason)
        else:
            seat.worker = self._make[seat.id]()

    def _give_up(self, seat: Seat, reason: str) -> None:
        """A device whose process never comes up. With the last one, the jobs that need a device fail."""
        seat.lost = True
        log.error("device %s was given up after %d starts: %s", seat.id, seat.deaths, reason)
        if any(s.id != HOST and not s.lost for s in self._fleet):
            return
        for ready in list(self._ready):
            text = f"No device is left to run this: the last one did not start ({reason})."
            self._failed(Failed(ready.key, "WorkerLost", text, (text,)))

    # -- small things ----------------------------------------------------------------------------

    def _known(self, ref: Ref) -> object:
        result = self._results.get(ref.key)
        return MISSING if result is None else result.value.get()[ref.slot][ref.item]

    def _lengths(self, key: OpKey) -> tuple[int, ...] | None:
        result = self._results.get(key)
        return None if result is None else result.lengths

    def _remember(self, key: OpKey) -> None:
        self._seen[key] = None
        self._seen.move_to_end(key)
        if len(self._seen) > SEEN:
            self._seen.popitem(last=False)

    def _emit(self, event: Event) -> None:
        for listener in self._listeners:
            listener(event)


def _ready_op(live: LiveOp, order: tuple[float, int], now: float, serial: bool) -> ReadyOp:
    """The op as the scheduler sees it."""
    weights = tuple(w.id for w in _weights(live.op))
    if isinstance(live.op, Denoise):
        rows = 2 if isinstance(live.op.guider, CfgGuider) and live.op.guider.cfg != 1 else 1
        return ReadyOp(live.key, "step", order, now, weights, batch=weights[0], rows=rows)
    return ReadyOp(live.key, live.op.kind, order, now, weights, serial=serial)


def _weights(op: Op[object]) -> list[Weights]:
    """The components that running an op needs on its device."""
    match op:
        case Denoise(guider=guider):
            return [guider.model.weights]
        case _:
            sources = [getattr(op, name, None) for name in ("clip", "vae")]
            return [source.weights for source in sources if source is not None]


def _failure(raised: NodeRaised) -> Failed:
    return failed(OpKey(""), raised.cause, {name: (value,) for name, value in raised.inputs.items()}, ())


def _refusal(record: JobRecord, refused: GraphError) -> dict[str, object]:
    """A recovered job that no longer passes validation, in the shape of an `execution_error`."""
    node = refused.node or record.targets[0]
    return {
        "prompt_id": record.id,
        "node_id": node,
        "node_type": "",
        "executed": [],
        "exception_message": f"{refused}\n",
        "exception_type": type(refused).__name__,
        "traceback": [],
        "current_inputs": {},
        "current_outputs": [],
    }
