"""The engine: jobs in, events out.

A request travels: submit -> _admit -> _grow (lowered and merged into the live graph) -> _dispatch (`plan()`
starts ops on devices) -> report -> _finished -> _grow again, or _succeed. All of it runs on the event loop's
thread; `board.py` keeps what runs, `narrate.py` tells the client.
"""

import asyncio
import logging
import traceback
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from backend.engine.asks import Asks, settle
from backend.engine.board import Board
from backend.engine.clock import Clock
from backend.engine.events import ClientMessage, Event, NodeText, QueueChanged
from backend.engine.fleet import HostThreads, Worker
from backend.engine.forecasts import Forecasts
from backend.engine.jobs import Accepted, Job, Submission
from backend.engine.metrics import Metrics
from backend.engine.narrate import Narrator
from backend.engine.ready import Claim
from backend.engine.record import SECRETS, JobRecord, JobStatus, refused_error, without_secrets
from backend.engine.results import Result, Results
from backend.engine.store import Store
from backend.engine.view import PoolView, pool_view
from backend.engine.watch import EVERY, Watch
from backend.errors import EngineFault, QueueFull, TesseraError
from backend.graph.frontier import LiveOp, State, wanted
from backend.graph.lower import MISSING, Composed, LoweredNode, Lowering, NodeRaised, Submitter
from backend.graph.parse import Prompt, parse_prompt
from backend.graph.questions import fingerprints, is_foreign
from backend.graph.validate import Refused, Validated, validate
from backend.ops import Call, Expanded, Needs
from backend.references import Ref
from backend.registry import Registry
from backend.schedule.forecast import Forecast
from backend.schedule.rules import Rules
from backend.types import ClientId, DeviceId, JobId, JobKey, NodeId, OpKey, Seconds
from backend.worker.exchange import Value
from backend.worker.failure import failed
from backend.worker.messages import (
    Ask,
    Asked,
    DeviceInfo,
    Evaluated,
    Failed,
    Finished,
    HostOnly,
    Loaded,
    Lost,
    News,
    OpCancelled,
    Preview,
    Progress,
    Ready,
    Report,
    Said,
    Started,
    Stopped,
    Table,
    Unfinished,
    Unloaded,
)

log = logging.getLogger(__name__)
PROFILED = 60.0  # seconds between two writings of what was measured
SEEN = 20_000  # reference nodes remembered as done before


@dataclass(frozen=True, slots=True)
class Limits:
    """cache_bytes: budget of finished results; preview: the default method; preview_size: in pixels.

    max_queue: unfinished jobs at most, 0 for any number; watchdog: seconds without progress after which an op
    is named as hung; split: idle devices compute parts of what others run.
    """

    cache_bytes: int = 4 << 30
    preview: str = "none"
    preview_size: int = 512
    max_queue: int = 0
    watchdog: Seconds = 600.0
    split: bool = True


class Engine:
    """Owns every unfinished job."""

    def __init__(
        self,
        registry: Registry,
        services: Mapping[type, object],
        store: Store,
        clock: Clock,
        limits: Limits,
        results: Results | None = None,
    ) -> None:
        self.store = store
        self._registry, self._services, self._clock, self._limits = registry, services, clock, limits
        results = Results(limits.cache_bytes) if results is None else results
        self._board = Board(registry, clock, results, Rules(split=limits.split))
        self._forecasts = Forecasts(self._board)
        self._watch = Watch(self._board, limits.watchdog)
        self._jobs: dict[JobKey, Job] = {}
        self._seen: OrderedDict[OpKey, None] = OrderedDict()
        self._asks = Asks(self._board)
        self._questions = asyncio.Lock()  # third-party classes are asked one at a time
        self._listeners: list[Callable[[Event], None]] = []
        self._inbox: deque[tuple[DeviceId, Report]] = deque()
        self._woken = False
        self._closing = False
        self._profiled = clock.now()
        self._loop: asyncio.AbstractEventLoop | None = None

    # -- life ------------------------------------------------------------------------------------

    def add_device(self, id: DeviceId, make: Callable[[], Worker], slots: int, max_rows: int = 0) -> None:
        """Give the engine a device; `make` starts its worker, now and after each death. After start()."""
        self._board.add_device(id, make, slots, max_rows)
        self._dispatch()

    def add_host(self, host: HostThreads, slots: int) -> None:
        """Give the engine the host's threads. After start()."""
        self._board.add_host(host, slots)
        self._dispatch()

    async def start(self) -> None:
        """Take up the jobs that a former run of the server left unfinished; they wait for devices."""
        self._loop = asyncio.get_running_loop()
        self._board.pool.profile.restore(await self.store.costs())
        for record in await self.store.unfinished():
            await self._recover(record)
        self._loop.call_later(EVERY, self._look_again)

    def look(self) -> None:
        """The watchdog's turn: name what hangs, end what does not end. It comes by itself, twice a second."""
        self._watch.look(self._clock.now())

    def _look_again(self) -> None:
        if not self._closing and self._loop is not None:
            self._loop.call_later(EVERY, self._look_again)
            self.look()
            self._dispatch()  # a deadline may have passed
            self._keep_costs(PROFILED)

    def _keep_costs(self, every: Seconds) -> None:
        """Write down what was measured, if that was last done so many seconds ago."""
        profile, now = self._board.pool.profile, self._clock.now()
        if profile.changed and now - self._profiled >= every:
            profile.changed, self._profiled = False, now
            self.store.keep_costs(list(profile.costs()))

    async def close(self) -> None:
        """Stop every device. Unfinished jobs stay in the store and run after the next start."""
        self._closing = True
        self._keep_costs(0.0)
        await asyncio.gather(*(asyncio.to_thread(seat.worker.stop) for seat in self._board.fleet))
        await asyncio.to_thread(self._board.results.close)

    def subscribe(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    # -- what the edge asks ----------------------------------------------------------------------

    async def submit(self, request: Submission) -> Accepted:
        """Check a prompt, put it on disk, and take it into the live graph.

        Raises: QueueFull; Refused (with ComfyUI's error shape) where nothing of it can run.
        """
        limit = self._limits.max_queue
        if limit and len(self._jobs) >= limit:
            raise QueueFull(limit, self._board.next_room(len(self._jobs)))
        if request.number is None:
            place = self.store.next_number()
            number = float(-place if request.front else place)
        else:
            number = request.number
        checked, prints = await self._checked(parse_prompt(request.prompt), request.targets)
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
        ahead = request.front or self._overtakes(number, request.number)
        self._admit(record, checked.prompt, ahead, prints)
        return Accepted(record.id, number, checked.errors)

    async def _checked(
        self, prompt: Prompt, targets: Sequence[str] | None
    ) -> tuple[Validated, Mapping[NodeId, object]]:
        """A valid prompt, and the fingerprints of its third-party nodes.

        Where third-party code answers, a thread of its own waits for it. Raises: Refused.
        """
        found = ((id, self._registry.find(node.class_type)) for id, node in prompt.nodes.items())
        foreign = {id: spec for id, spec in found if spec is not None and is_foreign(spec)}
        if not foreign:
            return validate(prompt, self._registry, self._services, targets), {}

        def ask() -> tuple[Validated, Mapping[NodeId, object]]:
            checked = validate(prompt, self._registry, self._services, targets, settle)
            nodes = checked.prompt.nodes
            return checked, asyncio.run(fingerprints(nodes, foreign, checked.prompt.to_json()))

        async with self._questions:
            return await asyncio.to_thread(ask)

    def _overtakes(self, number: float, chosen: float | None) -> bool:
        """Whether a number that the client chose puts the job before some that is here."""
        return chosen is not None and any(number < job.record.number for job in self._jobs.values())

    def queue(self) -> tuple[list[JobRecord], list[JobRecord]]:
        """Running and pending jobs, each in the order in which they run."""
        jobs = sorted(self._jobs.values(), key=lambda job: job.order)
        return [j.record for j in jobs if j.started], [j.record for j in jobs if not j.started]

    def remaining(self) -> int:
        return len(self._jobs)

    async def cancel_pending(self, ids: Sequence[JobId] | None) -> None:
        """Take jobs that have not started out of the queue (None: all of them)."""
        for job in [j for j in self._jobs.values() if not j.started and (ids is None or j.record.id in ids)]:
            del self._jobs[job.key]
            self._release(job, "cancelled")
            self._emit(QueueChanged(self.remaining()))
            await self.store.remove_pending([job.record.sequence])

    async def interrupt(self, id: JobId | None) -> None:
        """Stop a running job (None: whatever runs). Pending jobs are left alone."""
        for job in [j for j in self._jobs.values() if j.started and id in (None, j.record.id)]:
            self._interrupt(job, job.at)

    def _interrupt(self, job: Job, node: NodeId) -> None:
        real = job.real(node)
        job.narrator.interrupted(real, job.class_of(real))
        self._end(job, "cancelled")

    async def free(self, unload_models: bool, free_memory: bool) -> None:
        """Let workers drop their weights; free_memory also forgets every result that nobody waits for."""
        if unload_models or free_memory:
            for seat in self._board.fleet:
                seat.worker.unload()
        if free_memory:
            self._board.results.clear()
            self._board.forget_objects()
            self._seen.clear()

    def running_node(self, client: ClientId) -> NodeId | None:
        """The node that this client's running job is at: a reconnecting socket is told it."""
        mine = (j for j in self._jobs.values() if j.started and j.record.client == client)
        return next((node for j in mine if (node := j.narrator.shown) is not None), None)

    def devices(self) -> list[DeviceInfo]:
        return [seat.info for seat in self._board.fleet if seat.info is not None]

    def pool_view(self) -> PoolView:
        return pool_view(self._board, self._jobs, self.forecasts(), self._clock.now())

    def forecasts(self) -> dict[JobId, Forecast]:
        """When unfinished jobs will be over, where that can be said."""
        return self._forecasts.of(self._jobs)

    def metrics(self) -> Metrics:
        return self._board.trace.metrics

    # -- a job's way -----------------------------------------------------------------------------

    async def _recover(self, record: JobRecord) -> None:
        try:
            checked, prints = await self._checked(parse_prompt(record.prompt), record.targets)
        except Refused as refused:  # a node pack or a file went away while the server was down
            log.warning("job %s can no longer run: %s", record.id, refused)
            error = refused_error(record, refused)
            ended = self._clock.epoch_ms()
            messages = (("execution_error", error),)
            self.store.finish(replace(record, status="failed", ended=ended, messages=messages, error=error))
            return
        self._admit(record, checked.prompt, record.number < 0, prints)

    def _claim(self, record: JobRecord, ahead: bool) -> Claim:
        """A job's place, and when it must be over: `deadline_ms` of its extra data, from its arrival."""
        deadline, wait = None, record.extra.get("deadline_ms")
        if isinstance(wait, (int, float)) and not isinstance(wait, bool):
            left = (record.created + wait - self._clock.epoch_ms()) / 1000
            deadline = self._clock.now() + left
        return Claim((record.number, record.sequence), record.client or "", ahead, deadline)

    def _admit(self, record: JobRecord, prompt: Prompt, ahead: bool, prints: Mapping[NodeId, object]) -> None:
        """Take a job into the live graph: lower it as far as can be, merge its ops with everybody's.

        ahead: its number was chosen so that it goes before jobs that were there already. prints: fingerprints
        of third-party nodes.
        """
        pnginfo = record.extra.get("extra_pnginfo")
        tokens = {name.upper(): value for name, value in record.extra.items() if name in SECRETS}
        submitter = Submitter(JobKey(record.sequence), record.client, pnginfo, tokens, record.id)
        lowering = Lowering(prompt, record.targets, self._registry, self._services, submitter, prints)
        narrator = Narrator(record.id, record.client, self._emit, self._clock)
        preview = str(record.extra.get("preview_method") or self._limits.preview)
        claim = self._claim(record, ahead)
        job = Job(without_secrets(record), lowering, narrator, claim, preview)
        self._jobs[job.key] = job
        self._board.trace.job_arrived(job.key, record.id, record.client)
        self._guarded(partial(self._begin_growing, job), None, (job.key,))
        self._dispatch()

    def _begin_growing(self, job: Job) -> None:
        self._emit(QueueChanged(self.remaining()))
        self._grow(job)
        if job.key in self._jobs:
            self._forecasts.came(job.key, self._jobs, self._clock.now())

    def _grow(self, job: Job) -> None:
        """Lower what can be lowered now, and let the board have what must run for it."""
        try:
            while self._grow_once(job):
                pass  # expanded nodes have results now: what reads them can be lowered
        except NodeRaised as raised:
            self._fail_raised(job, raised)
            return
        if job.started:
            self._tell_lowered(job)
        wanted = self._board.graph.of_job(job.key)
        if job.done or any(self._board.graph[key].state is State.RUNNING for key in wanted):
            self._begin(job)
        if job.done:
            self._succeed(job)
        elif not wanted and (stuck := job.lowering.stuck):
            self._begin(job)
            self._fail_stuck(job, stuck)

    def _grow_once(self, job: Job) -> bool:
        """Returns: whether it is to be done again. Raises: NodeRaised."""
        first = not job.lowering.nodes
        lowered = job.lowering.advance(self._known, self._lengths)
        want = wanted(job.lowering.targets, job.lowering.ops, self._board.results.__contains__)
        for node in lowered:
            pending = {key for key in node.ops if key in want or key in job.lowering.composing}
            self._sort(job, node, pending, first)
        for key in want if not first else ():
            job.expect_again(key)
        self._board.want(job.key, job.claim, job.lowering.ordered(want))
        for composed in job.lowering.composed:
            self._keep_composed(job, composed)
        return bool(job.lowering.composed)

    def _keep_composed(self, job: Job, composed: Composed) -> None:
        """An expanded node's result is complete."""
        seconds, ui = job.spent.pop(composed.key, (0.0, None))
        lengths = tuple(map(len, composed.outputs))
        self._board.results.put(composed.key, Result(Value.of(composed.outputs), lengths, seconds, ui))
        self._hold(job, composed.key)
        self._begin(job)
        for id in job.finish_op(composed.key):
            job.narrator.node_finished(id, None if id in job.narrator.outputs else ui)

    def _hold(self, job: Job, key: OpKey) -> None:
        """Keep a result as long as the job: what reads it is lowered later."""
        if key in self._board.results:
            self._board.results.pin(key)
            job.held.append(key)

    def _fail_raised(self, job: Job, raised: NodeRaised) -> None:
        self._begin(job)
        inputs = {name: (value,) for name, value in raised.inputs.items()}
        self._fail(job, raised.node, failed(OpKey(""), raised.cause, inputs, ()))

    def _fail_stuck(self, job: Job, stuck: Sequence[NodeId]) -> None:
        """Nodes wait for each other. Those of the submitted prompt did not before one of them expanded."""
        places = (job.lowering.dynamic.place(id) for id in stuck)
        blamed = next((p.display for p, id in zip(places, stuck, strict=True) if p.display != id), stuck[0])
        error = Failed(OpKey(""), "graph.DependencyCycleError", "Dependency cycle detected", (), None)
        self._fail(job, blamed, error)

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

    def _begin(self, job: Job) -> None:
        """The job starts: its first op runs, or nothing of it has to."""
        if job.started:
            return
        job.started = True
        job.record = replace(job.record, status="running", started=self._clock.epoch_ms())
        self.store.mark_started(job.record.sequence, self._clock.epoch_ms())
        self._emit(QueueChanged(self.remaining()))
        cached = set(job.cached)
        job.narrator.started([id for id in job.lowering.prompt.nodes if id in cached])
        for id in job.lowering.outputs:
            if id in cached:
                job.narrator.node_cached(id, self._ui(job, id))
        job.cached.clear()
        self._tell_lowered(job)
        for key in self._board.graph.of_job(job.key):
            live = self._board.graph[key]
            if live.state is State.RUNNING and not live.missing:  # a call behind another has not begun
                self._tell_running(job, key)

    def _tell_lowered(self, job: Job) -> None:
        ends = (*job.lowering.outputs, *job.lowering.inner_outputs)
        for id in job.cached:
            if id in ends:
                job.narrator.node_cached(id, self._ui(job, id))
        for id in job.instant:
            self._tell_finished(job, id, self._ui(job, id))
        job.cached.clear()
        job.instant.clear()

    def _tell_running(self, job: Job, key: OpKey) -> None:
        for id in job.waiting_for(key):
            if id in job.resumed:
                job.resumed.discard(id)
                job.narrator.node_resumed(id)
            else:
                job.narrator.node_running(id)

    def _tell_finished(
        self, job: Job, id: NodeId, ui: Mapping[str, object] | None, blocked: Sequence[str] = ()
    ) -> None:
        messages = (*job.blocked.pop(id, ()), *blocked) if job.blocked else blocked
        if messages:
            job.narrator.node_running(id)
            for message in messages:
                job.narrator.node_blocked(id, job.class_of(id), message)
        job.narrator.node_finished(id, ui)

    def _ui(self, job: Job, id: NodeId) -> Mapping[str, object] | None:
        for key in job.lowering.nodes[id].ops:
            result = self._board.results.get(key)
            if result is not None and result.ui is not None:
                return result.ui
        return None

    def _succeed(self, job: Job) -> None:
        job.narrator.succeeded()
        self._end(job, "completed")

    def _fail(self, job: Job, node: NodeId, error: Failed) -> None:
        real = job.real(node)
        told = job.narrator.failed(real, job.class_of(real), error, tuple(job.lowering.dynamic.nodes))
        self._end(job, "failed", told)

    def _end(self, job: Job, status: JobStatus, error: Mapping[str, object] | None = None) -> None:
        """Every started job comes here once, whatever became of it."""
        narrator = job.narrator
        self._jobs.pop(job.key, None)
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
        self._release(job, status)

    def _release(self, job: Job, status: JobStatus) -> None:
        """A job is over: nothing is kept, or run, for it any more."""
        self._board.trace.job_ended(job.key, status)
        self._forecasts.ended(job.key, self._clock.now(), succeeded=status == "completed")
        for key in job.held:
            self._board.results.unpin(key)
        self._board.results.prompt_ended(job.record.client, job.held)
        self._board.drop(job.key)
        self._asks.job_left(self._claim_of)

    def _claim_of(self, key: JobKey) -> Claim:
        return self._jobs[key].claim

    def _dispatch(self) -> None:
        if not self._closing:
            self._guarded(self._dispatch_now)

    def _dispatch_now(self) -> None:
        for live in self._board.dispatch(self._preview, self._limits.preview_size, self._guarded):
            for job in self._jobs_of(live):
                self._guarded(partial(self._tell_sent, job, live.key), live.key, (job.key,))
        self._end_rejected()
        if self._board.more and self._loop is not None:
            self._loop.call_soon(self._dispatch)

    def _tell_sent(self, job: Job, key: OpKey) -> None:
        self._begin(job)
        self._tell_running(job, key)

    def _end_rejected(self) -> None:
        """Fail the jobs of ops that `plan()` refused."""
        rejected = self._board.rejected()
        for op in rejected:
            for job in [self._jobs[key] for key in op.jobs if key in self._jobs]:
                self._begin(job)
                self._fail_op(job, op.live.key, _given_up(op.live, op.error))
            self._board.readmit(op.live)
        if rejected:
            self._dispatch()

    def _preview(self, live: LiveOp) -> str:
        """The preview method of the first of the op's jobs that wants one."""
        return next((job.preview for job in self._jobs_of(live) if job.preview != "none"), "none")

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
                key, jobs = self._concerned(device, report)
                self._guarded(partial(self._take, device, report), key, jobs)
        self._guarded(self._shrink)
        self._dispatch()

    def _shrink(self) -> None:
        self._board.trace.metrics.cache.evicted += len(self._board.results.shrink())

    def _concerned(self, device: DeviceId, report: Report) -> tuple[OpKey | None, Collection[JobKey]]:
        """The op that a report is about, and the jobs that could not go on without what it says."""
        match report:
            case Ask() | Evaluated() | Ready() | Table() | Loaded() | Unloaded() | Said():
                return None, ()
            case Lost():
                return None, self._board.jobs_on(device)
            case _:
                live = self._board.graph.get(report.key)
                return report.key, () if live is None else tuple(live.jobs)

    def _guarded(
        self, step: Callable[[], None], key: OpKey | None = None, jobs: Collection[JobKey] = ()
    ) -> None:
        """Take one step of the loop. One that raises ends the jobs concerned, and no other.

        key: the op that it is about.
        """
        try:
            step()
        except Exception as error:  # a fault of ours: who waits for this must hear of it, and the loop go on
            log.exception("The engine failed (op %s), and with it %d jobs", key, len(jobs))
            for job in [self._jobs[job] for job in jobs if job in self._jobs]:
                self._guarded(partial(self._break_off, job, key, error))

    def _break_off(self, job: Job, key: OpKey | None, error: Exception) -> None:
        """End a job because of a fault of ours."""
        self._begin(job)
        known = key is not None and (key in job.nodes_of or key in job.lowering.asked)
        node = job.node_of(key) if known and key is not None else job.at
        frames = tuple(traceback.format_tb(error.__traceback__))
        fault = EngineFault(error)
        self._fail(job, node, Failed(key or OpKey(""), type(fault).__name__, str(fault), frames, None))

    def _take(self, device: DeviceId, report: Report) -> None:
        match report:
            case Finished():
                self._board.fleet[device].deaths = 0
                self._finished(report)
            case Failed(key):
                if (live := self._board.failed(key)) is not None:
                    self._fail_all(live, report)
            case OpCancelled(key):
                self._board.released(key)
            case Progress() | Preview() | Started():
                self._trace(report)
                self._tell(report)
            case Ask():
                self._board.loans.asked(device, report)
            case Evaluated():
                self._board.loans.evaluated(report)
            case Unfinished() | Stopped() | Said() | Asked():
                self._take_answer(report)
            case _:
                self._take_news(device, report)

    def _take_answer(self, report: HostOnly) -> None:
        """What a third-party node's call says beside its result."""
        match report:
            case Unfinished():
                self._unfinished(report)
            case Stopped(key):
                if (live := self._board.failed(key)) is not None:
                    for job in self._jobs_of(live):
                        self._interrupt(job, job.node_of(key))
            case Said(data=data, client=client, node=None):
                self._emit(ClientMessage(client, report.event, data))
            case Said(data=data, client=client, node=str() as node):
                self._emit(NodeText(client, NodeId(node), str(data)))
            case Asked():
                self._asks.take(report, self._claim_of)

    def _take_news(self, device: DeviceId, report: News | Lost) -> None:
        """What a worker says of itself."""
        seat = self._board.fleet[device]
        match report:
            case Ready(info):
                self._board.up(seat, info)
            case Table():
                self._board.told(seat, report)
            case Loaded():
                self._board.loaded(report)
            case Lost(reason):
                for live, error in self._board.lost(seat, reason):
                    self._fail_all(live, _given_up(live, error))

    def _trace(self, report: Progress | Preview | Started) -> None:
        match report:
            case Started(key):
                self._board.trace.began(key)
            case Progress(key, value, maximum):
                self._board.trace.progress(key, value, maximum)
                self._board.pool.progress(key, value / max(1, maximum), self._clock.now())

    def _tell(self, report: Progress | Preview | Started) -> None:
        """Tell every job that waits for an op how far it is."""
        live = self._board.graph.get(report.key)
        if live is None:
            return
        for job in self._jobs_of(live):
            for id in self._meant(job, live, report):
                match report:
                    case Progress(value=value, max=maximum):
                        job.narrator.node_progress(id, value, maximum)
                    case Preview():
                        job.narrator.node_preview(id, report)
                    case Started():  # most were told when the op was sent; a call behind another begins now
                        job.narrator.node_running(id)

    def _meant(self, job: Job, live: LiveOp, report: Progress | Preview | Started) -> Sequence[NodeId]:
        """The nodes of a job that a report is about: those the op works for, or one that it names."""
        named = None if isinstance(report, Started) else report.node
        other = named is not None and isinstance(live.op, Call) and named != live.op.node_id
        if other and named is not None and named in job.lowering.dynamic.nodes:
            return (named,)
        return job.waiting_for(report.key)

    def _finished(self, done: Finished) -> None:
        live = self._board.finished(done)
        self._asks.finished(done.key)
        if live is None:
            return
        own = self._own_result(live)
        for job in self._jobs_of(live):
            self._guarded(partial(self._finished_for, job, done, own), done.key, (job.key,))

    def _finished_for(self, job: Job, done: Finished, own: OpKey | None) -> None:
        """A job has one of its results. own: where it is kept, if others are lowered after it."""
        if own is not None:
            self._hold(job, own)
        elif not job.lowering.complete or self._board.results.holds_prompts:
            self._hold(job, done.key)
        for id in job.finish_op(done.key):
            if own is not None:
                job.lowering.settle(id, own)
            self._tell_finished(job, id, done.ui, done.blocked)
        if done.key in job.lowering.waiting:
            self._grow(job)
        elif job.done:
            self._succeed(job)

    def _own_result(self, live: LiveOp) -> OpKey | None:
        """Where the result of a node is kept that others are lowered after; None for all other ops."""
        spec = self._registry.find(live.op.node) if isinstance(live.op, Call) else None
        if spec is None or not isinstance(live.op, Call) or not (spec.dynamic or spec.lazy_names):
            return None
        return live.op.result or live.key

    def _unfinished(self, report: Unfinished) -> None:
        """A call needs more of its inputs, or other nodes run in its place."""
        live = self._board.unfinished(report.key, report.seconds)
        for job in self._jobs_of(live) if live is not None else ():
            self._guarded(partial(self._unfinished_for, job, report), report.key, (job.key,))

    def _unfinished_for(self, job: Job, report: Unfinished) -> None:
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
        self._grow(job)

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

    def _fail_all(self, live: LiveOp, error: Failed) -> None:
        for job in self._jobs_of(live):
            self._guarded(partial(self._fail_op, job, live.key, error), live.key, (job.key,))

    def _fail_op(self, job: Job, key: OpKey, error: Failed) -> None:
        if self._asks.failed(job, key, error) and not job.waiting_for(key):
            return  # the node that asked for it hears of it
        self._fail(job, job.node_of(key), error)

    # -- small things ----------------------------------------------------------------------------

    def _known(self, ref: Ref) -> object:
        result = self._board.results.get(ref.key)
        return MISSING if result is None else result.value.get()[ref.slot][ref.item]

    def _lengths(self, key: OpKey) -> tuple[int, ...] | None:
        result = self._board.results.get(key)
        return None if result is None else result.lengths

    def _jobs_of(self, live: LiveOp) -> list[Job]:
        """The jobs that want an op."""
        return [self._jobs[key] for key in live.jobs if key in self._jobs]

    def _emit(self, event: Event) -> None:
        for listener in self._listeners:
            self._guarded(partial(listener, event))


def _given_up(live: LiveOp, error: TesseraError) -> Failed:
    return Failed(live.key, type(error).__name__, f"{error}\n", (f"{error}\n",))
