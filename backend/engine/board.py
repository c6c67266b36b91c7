"""What is wanted and what runs: the live graph, the results and the devices. Jobs are mere keys here.

Each change is entered into the pool that `plan()` reads; `starts.py` does what it answers.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import ceil, inf

from backend.engine.clock import Clock
from backend.engine.deaths import Deaths
from backend.engine.fleet import HOST, STARTS, Fleet, HostThreads, Seat, Worker
from backend.engine.loans import Loans
from backend.engine.outlook import Outlook
from backend.engine.ready import Claim, first, name_of_cost
from backend.engine.results import Result, Results
from backend.engine.trace import Trace
from backend.errors import NoDevice, TesseraError, WorkerLost
from backend.graph.frontier import LiveGraph, LiveOp, State
from backend.ops import Call, Op
from backend.registry import Registry
from backend.schedule.pool import ReadyOp
from backend.schedule.rules import Rules
from backend.schedule.state import Pool
from backend.types import DeviceId, JobKey, OpKey, Seconds
from backend.worker.messages import DeviceInfo, Finished, Loaded, Table

log = logging.getLogger(__name__)
WEIGHTS_SHARE = 0.9  # of a device's memory may hold weights; the rest is for what is computed with them
SLOW = 0.005  # seconds from which on a call counts as service received


class Board:
    """Takes the ops that jobs want, and hands back what became of them.

    at_once: coroutines to start, which take no turn from others.
    """

    def __init__(
        self, registry: Registry, clock: Clock, results: Results, rules: Rules | None = None
    ) -> None:
        self.fleet = Fleet([])
        self.graph = LiveGraph()
        self.results = results
        self.pool = Pool(rules=rules)
        self.trace = Trace(clock)
        self.outlook = Outlook(registry, self.graph, self.pool)
        self._clock = clock
        self._make: dict[DeviceId, Callable[[], Worker]] = {}
        self.workers: dict[DeviceId, Worker] = {}
        self.loans = Loans(self.workers)
        self.claims: dict[JobKey, Claim] = {}
        self._deaths = Deaths()
        self.at_once: list[LiveOp] = []
        self.host: HostThreads | None = None

    def add_device(self, id: DeviceId, make: Callable[[], Worker], slots: int, max_rows: int) -> None:
        """`make` starts the device's worker, now and after each death."""
        self._make[id] = make
        self.workers[id] = make()
        self.fleet.add(Seat(id, self.workers[id], slots, max_rows))

    def wake(self) -> None:
        """Models are used, or will be soon: let the workers' processes start."""
        for worker in self.workers.values():
            worker.wake()

    def add_host(self, host: HostThreads, slots: int) -> None:
        self.host = host
        self.fleet.add(Seat(HOST, host, slots, 0))
        self.pool.add_device(HOST, "host", slots)

    # -- what jobs want --------------------------------------------------------------------------------

    def want(self, job: JobKey, claim: Claim, ops: Mapping[OpKey, Op[object]]) -> None:
        """Merge a job's ops into the live graph, inputs first."""
        self.claims[job] = claim
        shared = [key for key in ops if key in self.graph and job not in self.graph[key].jobs]
        merged = len(shared)
        new, ready = self.graph.add(job, ops, self.results.__contains__)
        self.trace.metrics.cache.misses += len(new)
        self.trace.job_merged(job, merged)
        for live in new:
            for source in live.inputs:
                self.results.pin(source)
        self.outlook.look_ahead(new)
        if any(not isinstance(live.op, Call) for live in new):
            self.wake()
        for live in ready:
            self._make_ready(live)
        for key in shared:
            self._renew(key)

    def drop(self, job: JobKey) -> None:
        """Take a job's ops out, but for those that another job needs. What runs of them is cancelled."""
        self.claims.pop(job, None)
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

    def let_go(self, job: JobKey, key: OpKey) -> None:
        """One job doesn't want an op any more that nothing else of it reads."""
        live = self.graph.let_go(job, key)
        if live is not None:
            self._dropped(live)

    def _leave(self, live: LiveOp) -> None:
        """An op is out of the graph: it waits no more, and needs nothing any more."""
        self.pool.remove(live.key)
        if live in self.at_once:
            self.at_once.remove(live)
        self.outlook.leave(live)

    @property
    def ready_count(self) -> int:
        """Ops that could run now, if a device were free."""
        return len(self.pool.queue)

    def forget_objects(self) -> None:
        """Third-party nodes begin anew."""
        if self.host is not None:
            self.host.forget()

    # -- what became of it -----------------------------------------------------------------------------

    def finished(self, done: Finished) -> LiveOp | None:
        """Keep a result, ready what waited for it. Returns: the op, None where nobody wants it any more."""
        key = done.key
        self.off(key, done.seconds)
        self._deaths.forget(key)
        live_op = self.graph.get(key)
        op = live_op.op if live_op is not None else None
        kept = op.result or key if isinstance(op, Call) else key
        cost = done.seconds if done.effort is None else done.effort
        self.results.put(kept, Result(done.value, done.lengths, cost, done.ui))
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
        self.off(key, seconds)
        live = self.graph.get(key)
        self.trace.gone(key, "finished", live.jobs if live is not None else ())
        if live is None:
            return None
        self._leave(live)
        self.graph.leave(key)
        for source in live.inputs:
            self.results.unpin(source)
        return live

    def failed(self, key: OpKey) -> LiveOp | None:
        """The op has left its device. Returns: the op, None where nobody wants it any more."""
        self.off(key)
        live = self.graph.get(key)
        self.trace.gone(key, "failed", live.jobs if live is not None else ())
        return live

    def released(self, key: OpKey) -> None:
        """A device let go of an op; it is ready once more if someone still, or again, wants it."""
        self.off(key)
        self.trace.gone(key, "cancelled", ())
        if key in self.graph:
            live = self.graph[key]
            live.state = State.WAITING if live.missing else State.READY
            if live.state is State.READY:
                self._make_ready(live)

    def readmit(self, live: LiveOp) -> None:
        """An op that was refused for some of its jobs goes on for the others."""
        waits = live.key in self.pool.queue or live in self.at_once
        if live.key in self.graph and live.state is State.READY and not waits:
            self._make_ready(live)

    # -- what is ready ---------------------------------------------------------------------------------

    def _make_ready(self, live: LiveOp) -> None:
        if self.fleet.busy(live.key):
            return  # a device is still dropping this op for someone who cancelled; `released` comes then
        if self.outlook.is_coroutine(live.op):
            self.at_once.append(live)
            return
        now = self._clock.now()
        self.pool.add(self._ready_op(live, now), now)

    def _ready_op(self, live: LiveOp, now: Seconds) -> ReadyOp:
        ready = self.outlook.ready_op(live, [self.claims[job] for job in live.jobs], now)
        return replace(ready, alone=True) if self._deaths.seen_by(live.key) else ready

    def _renew(self, key: OpKey) -> None:
        """Another job wants an op too: while it waits, it may be that job's turn first."""
        if key not in self.pool.queue or self.pool.running(key):
            return
        old, now = self.pool.queue.ops[key], self._clock.now()
        self.pool.remove(key)
        self.pool.add(replace(self._ready_op(self.graph[key], now), arrived=old.arrived), now)

    def off(self, key: OpKey, seconds: Seconds | None = None) -> None:
        """An op has left its device. seconds: what it took, where it finished."""
        self.fleet.release(key)
        held = self.pool.done(key, seconds)
        if held is None and seconds is not None and seconds > SLOW and key in self.graph:
            if self.outlook.is_coroutine(self.graph[key].op):
                return  # it mostly waited
            owner = first((self.claims[job] for job in self.graph[key].jobs), self.pool.shares)
            self.pool.charge(owner.user, seconds)  # a call that ran behind another

    def _learn(self, op: Op[object], seconds: Seconds) -> None:
        if op.kind == "whole" or (op.kind == "host" and seconds > SLOW):
            self.pool.profile.observe_op(name_of_cost(op), seconds)

    # -- what devices say of themselves ----------------------------------------------------------------

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
            self._deaths.add((key for key in running if key in self.graph), self._clock.now())
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
            seat.worker = self.workers[seat.id] = self._make[seat.id]()
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
        if report.late:
            self.pool.late.add(report.component)

    def next_room(self, jobs: int) -> int:
        """Whole seconds, at least one, in which one of so many jobs is likely to end."""
        waiting = sum(lane.seconds for lane in self.pool.queue.lanes.values())
        return max(1, ceil(waiting / max(1, len(self.pool.devices.workers)) / max(1, jobs)))
