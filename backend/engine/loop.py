"""The engine: jobs in, events out.

A request travels: submit -> _admit -> _dispatch: Growth.grow (lowered and merged into the live graph), and
`plan()` starts ops on devices -> report -> Reports.take -> Growth.finished -> grow again, or
Roster.succeed. All of it runs on the event loop's thread; `board.py` keeps what runs, `narrate.py` tells the
client.
"""

import asyncio
import logging
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from backend.engine.asks import settle
from backend.engine.board import Board
from backend.engine.clock import Clock
from backend.engine.events import Event
from backend.engine.fleet import HostThreads, Worker
from backend.engine.growth import Growth
from backend.engine.jobs import Accepted, Job, Submission
from backend.engine.metrics import Metrics
from backend.engine.narrate import Narrator
from backend.engine.ready import Claim
from backend.engine.record import SECRETS, JobRecord, refused_error, without_secrets
from backend.engine.reports import Reports, given_up
from backend.engine.results import Results
from backend.engine.roster import Roster
from backend.engine.starts import Starts
from backend.engine.store import Store
from backend.engine.view import PoolView, pool_view
from backend.engine.watch import EVERY, Watch
from backend.errors import QueueFull
from backend.graph.frontier import LiveOp
from backend.graph.lower import Lowering
from backend.graph.lowered import Submitter
from backend.graph.parse import Prompt, parse_prompt
from backend.graph.questions import fingerprints, is_foreign
from backend.graph.validate import Refused, Validated, validate
from backend.registry import Registry
from backend.schedule.forecast import Forecast
from backend.schedule.rules import Rules
from backend.types import ClientId, DeviceId, JobId, JobKey, NodeId, Seconds
from backend.values import frozen
from backend.worker.heap import give_back
from backend.worker.messages import DeviceInfo, Report

log = logging.getLogger(__name__)
PROFILED = 60.0  # seconds between two writings of what was measured
TIDY = 10.0  # seconds, at most, that freed memory is kept while jobs run


@frozen
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
        self._watch = Watch(self._board, limits.watchdog)
        self._roster = Roster(self._board, store, clock)
        self._growth = Growth(registry, self._board, self._roster)
        self._starts = Starts(self._board, clock)
        self._reports = Reports(self._board, self._roster, self._growth, clock)
        self._questions = asyncio.Lock()  # third-party classes are asked one at a time
        self._arrived: deque[Job] = deque()  # admitted, and not lowered yet
        self._inbox: deque[tuple[DeviceId, Report]] = deque()
        self._woken = self._due = False
        self._closing = False
        self._used, self._tidied = False, clock.now()  # whether jobs came since the last `_tidy`; when it was
        self._profiled = clock.now()
        self._loop: asyncio.AbstractEventLoop | None = None

    # -- a job's way -----------------------------------------------------------------------------

    async def submit(self, request: Submission) -> Accepted:
        """Check a prompt, put it on disk, and admit it: it is taken into the live graph in a moment.

        Raises: QueueFull; Refused (with ComfyUI's error shape) where nothing of it can run.
        """
        limit = self._limits.max_queue
        if limit and len(self._roster.jobs) >= limit:
            raise QueueFull(limit, self._board.next_room(len(self._roster.jobs)))
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
        return chosen is not None and any(number < job.record.number for job in self._roster.jobs.values())

    def _claim(self, record: JobRecord, ahead: bool) -> Claim:
        """A job's place, and when it must be over: `deadline_ms` of its extra data, from its arrival."""
        deadline, wait = None, record.extra.get("deadline_ms")
        if isinstance(wait, (int, float)) and not isinstance(wait, bool):
            left = (record.created + wait - self._clock.epoch_ms()) / 1000
            deadline = self._clock.now() + left
        return Claim((record.number, record.sequence), record.client or "", ahead, deadline)

    def _admit(self, record: JobRecord, prompt: Prompt, ahead: bool, prints: Mapping[NodeId, object]) -> None:
        """Make a job of a record; the next dispatch takes it into the live graph.

        ahead: its number was chosen so that it goes before jobs that were there already. prints: fingerprints
        of third-party nodes.
        """
        pnginfo = record.extra.get("extra_pnginfo")
        tokens = {name.upper(): value for name, value in record.extra.items() if name in SECRETS}
        key = JobKey(record.sequence)
        submitter = Submitter(key, record.client, pnginfo, tokens, record.id, record.prompt)
        lowering = Lowering(prompt, record.targets, self._registry, self._services, submitter, prints)
        narrator = Narrator(record.id, record.client, self._roster.emit, self._clock)
        preview = str(record.extra.get("preview_method") or self._limits.preview)
        claim = self._claim(record, ahead)
        job = Job(without_secrets(record), lowering, narrator, claim, preview)
        self._roster.jobs[job.key] = job
        self._used = True
        self._board.trace.job_arrived(job.key, record.id, record.client)
        self._arrived.append(job)
        self._dispatch_soon()

    def _grow_arrived(self) -> None:
        """Lower jobs as far as can be, merge their ops with everybody's."""
        while self._arrived:
            job = self._arrived.popleft()
            if job.key in self._roster.jobs:
                self._roster.guarded(partial(self._begin_growing, job), None, (job.key,))

    def _begin_growing(self, job: Job) -> None:
        self._roster.changed()
        self._growth.grow(job)
        if job.key in self._roster.jobs:
            self._roster.forecasts.came(job.key, self._roster.jobs, self._clock.now())

    def _dispatch_soon(self) -> None:
        """In the next turn of the event loop: who came in this one is answered first, and the client works on
        while the job does. A thread that starts would also take the lock of all threads from who answers.
        """
        if self._loop is None:
            self._dispatch()
        elif not self._due:
            self._due = True
            self._loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._due = False
        if self._closing:
            return
        self._roster.guarded(self._dispatch_now)
        told = self._run_quick()
        if self._starts.more or (told and self._starts.due):
            self._dispatch_soon()

    def _dispatch_now(self) -> None:
        self._grow_arrived()
        for live in self._starts.dispatch(self._preview, self._limits.preview_size, self._roster.guarded):
            for job in self._roster.among(live.jobs):
                self._roster.guarded(partial(self._roster.tell_sent, job, live.key), live.key, (job.key,))
        self._end_rejected()

    def _end_rejected(self) -> None:
        """Fail the jobs of ops that `plan()` refused."""
        rejected = self._starts.rejected()
        for op in rejected:
            for job in self._roster.among(op.jobs):
                self._roster.begin(job)
            self._roster.fail_all(op.live, given_up(op.live, op.error), op.jobs)
            self._board.readmit(op.live)
        if rejected:
            self._dispatch()

    def _preview(self, live: LiveOp) -> str:
        """The preview method of the first of the op's jobs that wants one."""
        return next((job.preview for job in self._roster.among(live.jobs) if job.preview != "none"), "none")

    def report(self, device: DeviceId, *reports: Report) -> None:
        """A device says something. Callable from any thread; handled in order on the loop's."""
        self._inbox.extend([(device, report) for report in reports])
        if not self._woken and self._loop is not None and not self._loop.is_closed():
            self._woken = True
            self._loop.call_soon_threadsafe(self._drain)

    def _run_quick(self) -> bool:
        """What quick calls report is here at once, and wakes nobody. Returns: whether they reported."""
        if self._board.host is None or self._loop is None:
            return False
        self._woken = True
        self._board.host.run_quick()
        self._woken = False
        return self._take_reports()

    def _drain(self) -> None:
        self._woken = False
        self._take_reports()
        self._dispatch()

    def _take_reports(self) -> bool:
        """Returns: whether there were any."""
        any_came = bool(self._inbox)
        while self._inbox:
            device, report = self._inbox.popleft()
            if not self._closing:
                self._reports.take(device, report)
        if any_came:
            self._roster.guarded(self._shrink)
        return any_came

    def _shrink(self) -> None:
        self._board.trace.metrics.cache.evicted += len(self._board.results.shrink())

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

    def look(self) -> None:
        """The watchdog's turn: name what hangs, end what does not end. It comes by itself, twice a second."""
        self._watch.look(self._clock.now())

    def _look_again(self) -> None:
        if not self._closing and self._loop is not None:
            self._loop.call_later(EVERY, self._look_again)
            self.look()
            self._dispatch()  # a deadline may have passed
            self._keep_costs(PROFILED)
            self._tidy()

    def _tidy(self) -> None:
        """Give freed memory back to the system once jobs are over, and now and then while there are more."""
        now = self._clock.now()
        if self._loop is not None and self._used and (not self._roster.jobs or now - self._tidied > TIDY):
            self._used, self._tidied = False, now
            self._loop.run_in_executor(None, give_back)

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

    # -- what the edge asks ----------------------------------------------------------------------

    def subscribe(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        return self._roster.subscribe(listener)

    def wake(self) -> None:
        """Someone is about to use models: let the workers' processes start, if they have not."""
        self._board.wake()

    def queue(self) -> tuple[list[JobRecord], list[JobRecord]]:
        """Running and pending jobs, each in the order in which they run."""
        jobs = sorted(self._roster.jobs.values(), key=lambda job: job.order)
        return [j.record for j in jobs if j.started], [j.record for j in jobs if not j.started]

    def remaining(self) -> int:
        return len(self._roster.jobs)

    async def cancel_pending(self, ids: Sequence[JobId] | None) -> None:
        """Take jobs that have not started out of the queue (None: all of them)."""
        pending = [job for job in self._roster.jobs.values() if not job.started]
        for job in [job for job in pending if ids is None or job.record.id in ids]:
            self._roster.drop(job)
            await self.store.remove_pending([job.record.sequence])

    async def interrupt(self, id: JobId | None) -> None:
        """Stop a running job (None: whatever runs). Pending jobs are left alone."""
        for job in [j for j in self._roster.jobs.values() if j.started and id in (None, j.record.id)]:
            self._roster.interrupt(job, job.at)

    async def free(self, unload_models: bool, free_memory: bool) -> None:
        """Let workers drop their weights; free_memory also forgets every result that nobody waits for."""
        if unload_models or free_memory:
            self._board.fleet.unload()
        if free_memory:
            self._board.results.clear()
            self._board.forget_objects()
            self._growth.forget()

    def running_node(self, client: ClientId) -> NodeId | None:
        """The node that this client's running job is at: a reconnecting socket is told it."""
        mine = (j for j in self._roster.jobs.values() if j.started and j.record.client == client)
        return next((node for j in mine if (node := j.narrator.shown) is not None), None)

    def devices(self) -> list[DeviceInfo]:
        return [seat.info for seat in self._board.fleet if seat.info is not None]

    def pool_view(self) -> PoolView:
        return pool_view(self._board, self._roster.jobs, self.forecasts(), self._clock.now())

    def forecasts(self) -> dict[JobId, Forecast]:
        """When unfinished jobs will be over, where that can be said."""
        self._grow_arrived()
        return self._roster.forecasts.of(self._roster.jobs)

    def metrics(self) -> Metrics:
        return self._board.trace.metrics
