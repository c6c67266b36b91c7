"""What runs: the live graph, the results, the devices, and `plan()` between them. Jobs are mere keys here."""

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import ceil, inf

from backend.engine.clock import Clock
from backend.engine.deaths import Deaths
from backend.engine.fleet import HOST, STARTS, Fleet, HostThreads, Seat, Worker
from backend.engine.loans import Loans
from backend.engine.ready import (
    Claim,
    controls_of,
    cost_of,
    first,
    guess_sizes,
    name_of_cost,
    ready_op,
    weights_of,
)
from backend.engine.results import Result, Results
from backend.engine.trace import Trace, name_of
from backend.errors import DeadlineMissed, NoDevice, TesseraError, TooLarge, WorkerLost
from backend.graph.frontier import LiveGraph, LiveOp, State
from backend.ops import Call, Denoise, Op
from backend.references import Weights
from backend.registry import Registry
from backend.schedule.policy import MOST, plan
from backend.schedule.pool import (
    Decision,
    Evict,
    Load,
    Preempt,
    ReadyOp,
    Reject,
    Resume,
    Run,
    Split,
    Unsplit,
)
from backend.schedule.rules import Rules
from backend.schedule.state import Pool
from backend.types import ComponentId, DeviceId, JobKey, OpKey, Seconds
from backend.worker.messages import DeviceInfo, Finished, HostCall, Loaded, Stored, Table

log = logging.getLogger(__name__)
AT_ONCE = 128  # ops started, about, before others have their turn
CHAIN = 16  # most calls that one thread runs in a row
WEIGHTS_SHARE = 0.9  # of a device's memory may hold weights; the rest is for what is computed with them
_INSTANT = 1e-6  # seconds
_ROUND = 1 << 20
SLOW = 0.005  # seconds from which on a call counts as service received

Preview = Callable[[LiveOp], str]
# Takes a step that is about an op of these jobs; an exception in it ends them.
Guarded = Callable[[Callable[[], None], OpKey | None, Collection[JobKey]], None]


@dataclass(frozen=True, slots=True)
class Rejected:
    """An op that `plan()` refused, and the jobs that end because of it."""

    live: LiveOp
    jobs: tuple[JobKey, ...]
    error: TesseraError


class Board:
    """Takes the ops that jobs want, starts what `plan()` says, and hands back what became of them."""

    def __init__(
        self, registry: Registry, clock: Clock, results: Results, rules: Rules | None = None
    ) -> None:
        self.fleet = Fleet([])
        self.graph = LiveGraph()
        self.results = results
        self.more = False
        self.pool = Pool(rules=rules)
        self.trace = Trace(clock)
        self._registry, self._clock = registry, clock
        self._make: dict[DeviceId, Callable[[], Worker]] = {}
        self._workers: dict[DeviceId, Worker] = {}
        self.loans = Loans(self._workers)
        self._claims: dict[JobKey, Claim] = {}
        self._paths: dict[OpKey, Seconds] = {}
        self._controls: dict[OpKey, tuple[Weights, ...]] = {}  # that reach an op
        self._weights: dict[ComponentId, Weights] = {}
        self._rejected: list[Rejected] = []
        self._deaths = Deaths()
        self._at_once: list[LiveOp] = []
        self._came = 0  # calls that were ready so far
        self._host: HostThreads | None = None

    def add_device(self, id: DeviceId, make: Callable[[], Worker], slots: int, max_rows: int) -> None:
        """`make` starts the device's worker, now and after each death."""
        self._make[id] = make
        self._workers[id] = make()
        self.fleet.add(Seat(id, self._workers[id], slots, max_rows))

    def add_host(self, host: HostThreads, slots: int) -> None:
        self._host = host
        self.fleet.add(Seat(HOST, host, slots, 0))
        self.pool.add_device(HOST, "host", slots)

    # -- what jobs want --------------------------------------------------------------------------

    def want(self, job: JobKey, claim: Claim, ops: Mapping[OpKey, Op[object]]) -> None:
        """Merge a job's ops into the live graph, inputs first."""
        self._claims[job] = claim
        shared = [key for key in ops if key in self.graph and job not in self.graph[key].jobs]
        merged = len(shared)
        new, ready = self.graph.add(job, ops, self.results.__contains__)
        self.trace.metrics.cache.misses += len(new)
        self.trace.job_merged(job, merged)
        for live in new:
            for source in live.inputs:
                self.results.pin(source)
        self._look_ahead(new)
        for live in ready:
            self._make_ready(live)
        for key in shared:
            self._renew(key)

    def drop(self, job: JobKey) -> None:
        """Take a job's ops out, but for those that another job needs. What runs of them is cancelled."""
        self._claims.pop(job, None)
        for live in self.graph.drop_job(job):
            self._dropped(live)

    def _dropped(self, live: LiveOp) -> None:
        """An op is out of the graph and nobody wants it."""
        self._leave(live)
        self._deaths.forget(live.key)
        for source in live.inputs:
            self.results.unpin(source)
        if live.state is State.RUNNING:
            self.fleet.cancel(live.key)

    @property
    def ready_count(self) -> int:
        """Ops that could run now, if a device were free."""
        return len(self.pool.queue)

    def forget_objects(self) -> None:
        """Third-party nodes begin anew."""
        if self._host is not None:
            self._host.forget()

    # -- what runs -------------------------------------------------------------------------------

    def dispatch(self, preview: Preview, preview_size: int, guarded: Guarded) -> list[LiveOp]:
        """Ask `plan()` what is to be done now, and do it. preview: the method an op's client wants; guarded:
        takes each step.

        Returns: the ops that were started. What was refused waits for `rejected`; `more` says whether there
        is more to do, after others had their turn: a start of thousands must not keep the server from
        answering.
        """
        started: list[LiveOp] = []
        pool = self.pool
        while self._at_once and self._host is not None:
            started.append(live := self._at_once.pop(0))
            guarded(partial(self._start_coroutine, live), live.key, tuple(live.jobs))
        self.more = False
        while pool.queue.ops or pool.cold or pool.over or pool.may_split:
            if len(started) >= AT_ONCE:
                self.more = True
                break
            decisions = plan(pool, self._clock.now())
            for decision in decisions:
                live = None if isinstance(decision, (Load, Evict)) else self.graph.get(decision.key)
                if live is not None and isinstance(decision, Run):
                    started.append(live)
                    guarded(partial(self._start, decision, preview, preview_size), live.key, tuple(live.jobs))
                else:
                    jobs = () if live is None else tuple(live.jobs)
                    guarded(partial(self._carry_out, decision), None, jobs)
            if len(decisions) < MOST:
                break
        return started

    def _start(self, run: Run, preview: Preview, preview_size: int) -> None:
        live = self.graph[run.key]
        ready = self.pool.devices[run.device].running[run.key].op
        seat = self.fleet.assign(run.device, ready)
        try:
            self.trace.decided("run", seat.id, name_of(live.op), run.reason)
            self.trace.sent(live, seat.id, ready)
            if seat.id == HOST and isinstance(live.op, Call):
                self._run_chain(live)
            else:
                seat.worker.run(live.key, live.op, self._inputs(live), preview(live), preview_size)
            live.state = State.RUNNING
        finally:
            if live.state is not State.RUNNING:
                self._off(live.key)  # the device never had it

    def _start_coroutine(self, live: LiveOp) -> None:
        """A coroutine mostly waits: it takes no thread, and no turn from others."""
        self.fleet.follow(live.key)
        self.trace.sent(live, HOST, None)
        live.state = State.RUNNING
        assert isinstance(live.op, Call)
        assert self._host is not None
        self._host.run_chain([HostCall(live.key, live.op, self._inputs(live))])

    def _carry_out(self, decision: Decision) -> None:
        """Send a decision to the worker that it concerns, or keep it for the jobs that it ends."""
        match decision:
            case Resume(key, device):
                self._workers[device].resume(key)
            case Preempt(key, device):
                self._workers[device].pause(key)
            case Split(key, device, helper):
                self._workers[device].split(key, helper)
            case Unsplit(key, device, helper):
                self._workers[device].unsplit(key, helper)
            case Load(component, device):
                self._workers[device].load(self._weights[component])
            case Evict(component, device):
                self._workers[device].unload((component,))
            case Reject():
                self._reject(decision)
            case Run():
                pass  # of an op that ended while the decisions before it were carried out
        self._note(decision)

    def _note(self, decision: Decision) -> None:
        device = None if isinstance(decision, Reject) else decision.device
        if isinstance(decision, (Load, Evict)):
            subject = str(decision.component)
        else:
            live = self.graph.get(decision.key)
            subject = decision.key if live is None else name_of(live.op)
        self.trace.decided(type(decision).__name__.lower(), device, subject, decision.reason)

    def _reject(self, decision: Reject) -> None:
        """Find the jobs that end by it: all, or those whose deadline it is."""
        live = self.graph[decision.key]
        if live.state is State.RUNNING:  # it was preempted: its device still holds it
            self.fleet.cancel(live.key)
        jobs = tuple(sorted(live.jobs))
        if decision.cause == "size":
            error: TesseraError = TooLarge(name_of(live.op), decision.reason)
        else:
            ends = self._clock.now() + self._paths.get(live.key, 0.0)
            late = ((job, self._claims[job].deadline) for job in jobs)
            jobs = tuple(job for job, deadline in late if deadline is not None and deadline < ends)
            error = DeadlineMissed(name_of(live.op), decision.reason)
        self._rejected.append(Rejected(live, jobs, error))

    def rejected(self) -> list[Rejected]:
        """What `plan()` refused since the last call. Drop the jobs, then `readmit` each."""
        taken, self._rejected = self._rejected, []
        return taken

    def readmit(self, live: LiveOp) -> None:
        """An op that was refused for some of its jobs goes on for the others."""
        waits = live.key in self.pool.queue or live in self._at_once
        if live.key in self.graph and live.state is State.READY and not waits:
            self._make_ready(live)

    def _run_chain(self, head: LiveOp) -> None:
        """Start a call, and behind it in the same thread the calls that wait for nothing else: each hand-over
        between threads costs more than a small call takes.
        """
        chain = [head]
        while len(chain) < CHAIN and (follower := self._follower(chain[-1])) is not None:
            follower.state = State.RUNNING
            self.fleet.follow(follower.key)
            self.trace.sent(follower, HOST, None)
            chain.append(follower)
        calls = [
            HostCall(live.key, live.op, self._inputs(live)) for live in chain if isinstance(live.op, Call)
        ]
        assert self._host is not None  # it has started something
        self._host.run_chain(calls)

    def _follower(self, live: LiveOp) -> LiveOp | None:
        if self._is_serial(live.op):
            return None
        users = (self.graph[key] for key in self.graph.graph.successors(live.key))
        fitting = (u for u in users if u.state is State.WAITING and u.missing == 1 and isinstance(u.op, Call))
        return next((u for u in fitting if not self._is_serial(u.op)), None)

    def _inputs(self, live: LiveOp) -> dict[OpKey, Stored]:
        found = ((key, self.results.get(key)) for key in live.inputs)
        return {key: result.value for key, result in found if result is not None}

    def _is_serial(self, op: Op[object]) -> bool:
        spec = self._registry.find(op.node) if isinstance(op, Call) else None
        return spec is not None and spec.serial

    def _is_coroutine(self, op: Op[object]) -> bool:
        spec = self._registry.find(op.node) if isinstance(op, Call) else None
        return spec is not None and spec.is_async

    def finished(self, done: Finished) -> LiveOp | None:
        """Keep a result, ready what waited for it. Returns: the op, None where nobody wants it any more."""
        key = done.key
        self._off(key, done.seconds)
        self._deaths.forget(key)
        live_op = self.graph.get(key)
        op = live_op.op if live_op is not None else None
        kept = op.result or key if isinstance(op, Call) else key
        self.results.put(kept, Result(done.value, done.lengths, done.seconds, done.ui))
        if key not in self.graph:
            self.trace.finished(done, ())
            return None
        live = self.graph[key]
        self.trace.finished(done, live.jobs)
        self._learn(live.op, done.seconds)
        self._leave(live)  # it may even be ready: cancelled, wanted again, and come to its end all the same
        for _ in self.graph.graph.successors(key):
            self.results.pin(key)
        for ready in self.graph.finish(key):
            self._make_ready(ready)
        for source in live.inputs:
            self.results.unpin(source)
        return live

    def unfinished(self, key: OpKey, seconds: Seconds) -> LiveOp | None:
        """A call answered with something else than a result: it is done, and there is nothing to keep.

        Returns: the op, None where nobody wants it any more.
        """
        self._off(key, seconds)
        live = self.graph.get(key)
        self.trace.gone(key, "finished", live.jobs if live is not None else ())
        if live is None:
            return None
        self._leave(live)
        self.graph.leave(key)
        for source in live.inputs:
            self.results.unpin(source)
        return live

    def let_go(self, job: JobKey, key: OpKey) -> None:
        """One job doesn't want an op any more that nothing else of it reads."""
        live = self.graph.let_go(job, key)
        if live is not None:
            self._dropped(live)

    def failed(self, key: OpKey) -> LiveOp | None:
        """The op has left its device. Returns: the op, None where nobody wants it any more."""
        self._off(key)
        live = self.graph.get(key)
        self.trace.gone(key, "failed", live.jobs if live is not None else ())
        return live

    def released(self, key: OpKey) -> None:
        """A device let go of an op; it is ready once more if someone still, or again, wants it."""
        self._off(key)
        self.trace.gone(key, "cancelled", ())
        if key in self.graph:
            live = self.graph[key]
            live.state = State.WAITING if live.missing else State.READY
            if live.state is State.READY:
                self._make_ready(live)

    def jobs_on(self, device: DeviceId) -> set[JobKey]:
        """The jobs of what a device runs."""
        running = (self.graph.get(key) for key in self.fleet[device].running)
        return {job for live in running if live is not None for job in live.jobs}

    def lost(self, seat: Seat, reason: str) -> list[tuple[LiveOp, TesseraError]]:
        """A worker's process is gone: its ops are ready again, and a new process takes its place.

        Returns: the ops that are given up, and why.
        """
        seat.info, seat.table, seat.deaths = None, Table(()), seat.deaths + 1
        running = list(seat.running)
        log.warning("worker %s ended (%s) with %d ops; starting another", seat.id, reason, len(running))
        self.trace.died(seat.id)
        self.loans.lost(seat.id)
        given_up: list[tuple[LiveOp, TesseraError]] = []
        if not seat.condemned:
            self._deaths.add(key for key in running if key in self.graph)
        for key in running:
            self.trace.gone(key, "lost", self.graph[key].jobs if key in self.graph else ())
            if not self._deaths.convicts(key):
                self.released(key)
            elif (live := self.failed(key)) is not None:
                deaths = self._deaths.seen_by(key)
                given_up.append((live, WorkerLost(type(live.op).__name__, deaths, reason)))
                self._deaths.forget(key)
        if seat.id in self.pool.devices:
            self.pool.remove_device(seat.id)
        seat.condemned = False
        if running or seat.deaths < STARTS:
            seat.worker = self._workers[seat.id] = self._make[seat.id]()
            return given_up
        log.error("device %s was given up after %d starts: %s", seat.id, seat.deaths, reason)
        seat.lost = True
        return given_up + self._stranded(reason)

    def _stranded(self, reason: str) -> list[tuple[LiveOp, TesseraError]]:
        """With the last device gone: the ops that wait for one."""
        if any(seat.id != HOST and not seat.lost for seat in self.fleet):
            return []
        waiting = [op.key for op in self.pool.queue.ops.values() if op.kind != "host"]
        return [(self.graph[key], NoDevice(reason)) for key in waiting]

    def next_room(self, jobs: int) -> int:
        """Whole seconds, at least one, in which one of so many jobs is likely to end."""
        waiting = sum(lane.seconds for lane in self.pool.queue.lanes.values())
        return max(1, ceil(waiting / max(1, len(self.pool.devices.workers)) / max(1, jobs)))

    # -- what devices say of themselves ----------------------------------------------------------

    def up(self, seat: Seat, info: DeviceInfo) -> None:
        """A worker's process is there."""
        seat.info, seat.lost = info, False
        self.loans.up(seat.id)
        self.pool.profile.on_cpu = info.type == "cpu"
        capacity = WEIGHTS_SHARE * info.total if info.total else inf
        self.pool.add_device(seat.id, "worker", seat.slots, seat.max_rows, capacity)

    def told(self, seat: Seat, table: Table) -> None:
        """What a worker holds and has done."""
        self.trace.told(seat.id, seat.table, table)
        seat.table = table
        held = {resident.component: float(resident.nbytes) for resident in table.resident}
        self.pool.table(seat.id, held, self._clock.now())
        for component, rows, seconds in table.passes:
            self.pool.profile.observe_step(component, rows, seconds)

    def loaded(self, report: Loaded) -> None:
        self.pool.profile.observe_load(report.component, report.seconds)

    # -- inside ----------------------------------------------------------------------------------

    def _look_ahead(self, new: list[LiveOp]) -> None:
        """What ops will need and how much is left of their job behind each. new: inputs first."""
        for live in new:
            controls = dict.fromkeys(controls_of(live.op))
            for source in live.inputs:
                controls.update(dict.fromkeys(self._controls.get(source, ())))
            if controls:
                self._controls[live.key] = tuple(controls)
        if all(isinstance(live.op, Call) for live in new):
            return  # nothing to load, and nothing known to be long
        profile, successors = self.pool.profile, self.graph.graph.successors
        for live in reversed(new):
            weights = self._needed(live)
            if weights:
                guess_sizes(weights, profile)
                self._weights.update((w.id, w) for w in weights)
                self.pool.want(tuple(w.id for w in weights), 1)
            behind = max((self._paths.get(key, 0.0) for key in successors(live.key)), default=0.0)
            self._paths[live.key] = cost_of(live.op, profile) + behind

    def _leave(self, live: LiveOp) -> None:
        """An op is out of the graph: it waits no more, and needs nothing any more."""
        self.pool.remove(live.key)
        self._paths.pop(live.key, None)
        if live in self._at_once:
            self._at_once.remove(live)
        for weights in self._needed(live):
            self.pool.want((weights.id,), -1)
            if weights.id not in self.pool.demand:
                self._weights.pop(weights.id, None)
        self._controls.pop(live.key, None)

    def _needed(self, live: LiveOp) -> list[Weights]:
        """What an op needs on its device: for a sampling run also the ControlNets of its conditions."""
        if isinstance(live.op, Denoise):
            return [*weights_of(live.op), *self._controls.get(live.key, ())]
        return weights_of(live.op)

    def _off(self, key: OpKey, seconds: Seconds | None = None) -> None:
        """An op has left its device. seconds: what it took, where it finished."""
        self.fleet.release(key)
        held = self.pool.done(key, seconds)
        if held is None and seconds is not None and seconds > SLOW and key in self.graph:
            if self._is_coroutine(self.graph[key].op):
                return  # it mostly waited
            owner = first((self._claims[job] for job in self.graph[key].jobs), self.pool.shares)
            self.pool.charge(owner.user, seconds)  # a call that ran behind another

    def _learn(self, op: Op[object], seconds: Seconds) -> None:
        if op.kind == "whole" or (op.kind == "host" and seconds > SLOW):
            self.pool.profile.observe_op(name_of_cost(op), seconds)

    def _make_ready(self, live: LiveOp) -> None:
        if self.fleet.busy(live.key):
            return  # a device is still dropping this op for someone who cancelled; `released` comes then
        if self._is_coroutine(live.op):
            self._at_once.append(live)
            return
        now = self._clock.now()
        self.pool.add(self._ready_op(live, now), now)

    def _ready_op(self, live: LiveOp, now: Seconds) -> ReadyOp:
        claim = first((self._claims[job] for job in live.jobs), self.pool.shares)
        path = self._paths.get(live.key, 0.0) + self._turn(live)
        ready = ready_op(live, claim, now, self.pool.profile, path)
        if live.key in self._controls and isinstance(live.op, Denoise):
            ready = replace(ready, components=tuple(w.id for w in self._needed(live)))
        if self._is_serial(live.op):
            ready = replace(ready, serial=True)
        return replace(ready, alone=True) if self._deaths.seen_by(live.key) else ready

    def _turn(self, live: LiveOp) -> Seconds:
        """Next to nothing, for the order of a job's calls where nothing else decides it: outputs first, then
        what stands right before one, and so on; then in the order in which they came.
        """
        if not isinstance(live.op, Call):
            return 0.0
        self._came += 1
        return _INSTANT * (2 * self._nearness(live) + 1 - self._came % _ROUND / _ROUND)

    def _nearness(self, live: LiveOp) -> int:
        """3: an output; 2, 1: so many steps from one less; 0: farther off, or not known yet."""
        level, near = [live], 3
        while near and level:
            if any(self._is_output(each.op) for each in level):
                return near
            near -= 1
            level = [self.graph[key] for each in level for key in self.graph.graph.successors(each.key)]
        return 0

    def _is_output(self, op: Op[object]) -> bool:
        spec = self._registry.find(op.node) if isinstance(op, Call) else None
        return spec is not None and spec.output_node

    def _renew(self, key: OpKey) -> None:
        """Another job wants an op too: while it waits, it may be that job's turn first."""
        if key not in self.pool.queue or self.pool.running(key):
            return
        old, now = self.pool.queue.ops[key], self._clock.now()
        self.pool.remove(key)
        self.pool.add(replace(self._ready_op(self.graph[key], now), arrived=old.arrived), now)
