"""What runs: the live graph, the results, the devices, and `plan()` between them. Jobs are mere keys here."""

import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace

from sortedcontainers import SortedKeyList

from backend.engine.clock import Clock
from backend.engine.fleet import HOST, STARTS, Fleet, HostThreads, Seat, Worker
from backend.engine.ready import ready_op
from backend.engine.results import Result, Results
from backend.engine.trace import Trace, name_of
from backend.errors import NoDevice, TesseraError, WorkerLost
from backend.graph.frontier import LiveGraph, LiveOp, State
from backend.ops import Call, Op
from backend.registry import Registry
from backend.schedule.policy import plan
from backend.schedule.pool import Pool, ReadyOp, Run
from backend.types import DeviceId, JobKey, OpKey
from backend.worker.messages import Finished, HostCall, Stored, Table

log = logging.getLogger(__name__)
DEATHS = 3  # workers that an op may take down before it is given up
CHAIN = 16  # most calls that one thread runs in a row
DECISIONS = 64  # last decisions kept for the pool view


class Board:
    """Takes the ops that jobs want, starts what `plan()` says, and hands back what became of them."""

    def __init__(self, registry: Registry, clock: Clock, cache_bytes: int) -> None:
        self.fleet = Fleet([])
        self.graph = LiveGraph()
        self.results = Results(cache_bytes)
        self.decisions: deque[Run] = deque(maxlen=DECISIONS)
        self.trace = Trace(clock)
        self._registry, self._clock = registry, clock
        self._make: dict[DeviceId, Callable[[], Worker]] = {}
        self._orders: dict[JobKey, tuple[float, int]] = {}
        self._calls: SortedKeyList[ReadyOp] = SortedKeyList(key=_order)
        self._ready: SortedKeyList[ReadyOp] = SortedKeyList(key=_order)
        self._ready_by_key: dict[OpKey, ReadyOp] = {}
        self._deaths: dict[OpKey, int] = {}
        self._host: HostThreads

    def add_device(self, id: DeviceId, make: Callable[[], Worker], slots: int, max_rows: int) -> None:
        """`make` starts the device's worker, now and after each death."""
        self._make[id] = make
        self.fleet.add(Seat(id, make(), slots, max_rows))

    def add_host(self, host: HostThreads, slots: int) -> None:
        self._host = host
        self.fleet.add(Seat(HOST, host, slots, 0))

    # -- what jobs want --------------------------------------------------------------------------

    def want(self, job: JobKey, order: tuple[float, int], ops: Mapping[OpKey, Op[object]]) -> None:
        """Merge a job's ops into the live graph, inputs first. order: the job's place in the queue."""
        self._orders[job] = order
        merged = sum(key in self.graph and job not in self.graph[key].jobs for key in ops)
        new, ready = self.graph.add(job, ops, self.results.__contains__)
        self.trace.metrics.cache.misses += len(new)
        self.trace.job_merged(job, merged)
        for live in new:
            for source in live.inputs:
                self.results.pin(source)
        for live in ready:
            self._make_ready(live)

    def drop(self, job: JobKey) -> None:
        """Take a job's ops out, but for those that another job needs. What runs of them is cancelled."""
        self._orders.pop(job, None)
        for live in self.graph.drop_job(job):
            self._unready(live.key)
            for source in live.inputs:
                self.results.unpin(source)
            if live.state is State.RUNNING:
                self.fleet.cancel(live.key)

    @property
    def ready_count(self) -> int:
        """Ops that could run now, if a device were free."""
        return len(self._calls) + len(self._ready)

    # -- what runs -------------------------------------------------------------------------------

    def dispatch(self, preview: Callable[[LiveOp], str], preview_size: int) -> list[LiveOp]:
        """Ask `plan()` what starts now, and start it. preview: the method an op's client wants."""
        if not (self._calls or self._ready):
            return []
        started = []
        for decision in plan(Pool(self.fleet.snapshot(), self._calls, self._ready)):
            self.decisions.append(decision)
            live = self.graph[decision.key]
            ready = self._ready_by_key[decision.key]
            seat = self.fleet.assign(decision.device, ready)
            self.trace.decided("run", seat.id, name_of(live.op), decision.reason)
            self.trace.sent(live, seat.id, ready)
            self._unready(decision.key)
            live.state = State.RUNNING
            if seat.id == HOST:
                self._run_chain(live)
            else:
                seat.worker.run(live.key, live.op, self._inputs(live), preview(live), preview_size)
            started.append(live)
        return started

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

    def finished(self, done: Finished) -> LiveOp | None:
        """Keep a result, ready what waited for it. Returns: the op, None where nobody wants it any more."""
        key = done.key
        self.fleet.release(key)
        self._deaths.pop(key, None)
        self.results.put(key, Result(done.value, done.lengths, done.seconds, done.ui))
        if key not in self.graph:
            self.trace.finished(done, ())
            return None
        live = self.graph[key]
        self.trace.finished(done, live.jobs)
        self._unready(key)  # a cancelled op that someone wants again, and that came to its end all the same
        for _ in self.graph.graph.successors(key):
            self.results.pin(key)
        for ready in self.graph.finish(key):
            self._make_ready(ready)
        for source in live.inputs:
            self.results.unpin(source)
        return live

    def failed(self, key: OpKey) -> LiveOp | None:
        """The op has left its device. Returns: the op, None where nobody wants it any more."""
        self.fleet.release(key)
        live = self.graph.get(key)
        self.trace.gone(key, "failed", live.jobs if live is not None else ())
        return live

    def released(self, key: OpKey) -> None:
        """A device let go of an op; it is ready once more if someone still, or again, wants it."""
        self.fleet.release(key)
        self.trace.gone(key, "cancelled", ())
        if key in self.graph:
            live = self.graph[key]
            live.state = State.WAITING if live.missing else State.READY
            if live.state is State.READY:
                self._make_ready(live)

    def lost(self, seat: Seat, reason: str) -> list[tuple[LiveOp, TesseraError]]:
        """A worker's process is gone: its ops are ready again, and a new process takes its place.

        Returns: the ops that are given up, and why.
        """
        seat.info, seat.table, seat.deaths = None, Table(()), seat.deaths + 1
        running = list(seat.running)
        log.warning("worker %s ended (%s) with %d ops; starting another", seat.id, reason, len(running))
        self.trace.died(seat.id)
        given_up: list[tuple[LiveOp, TesseraError]] = []
        for key in running:
            self._deaths[key] = self._deaths.get(key, 0) + 1
            self.trace.gone(key, "lost", self.graph[key].jobs if key in self.graph else ())
            if self._deaths[key] < DEATHS:
                self.released(key)
            elif (live := self.failed(key)) is not None:
                deaths = self._deaths.pop(key)
                given_up.append((live, WorkerLost(type(live.op).__name__, deaths, reason)))
        if running or seat.deaths < STARTS:
            seat.worker = self._make[seat.id]()
            return given_up
        log.error("device %s was given up after %d starts: %s", seat.id, seat.deaths, reason)
        seat.lost = True
        return given_up + self._stranded(reason)

    def _stranded(self, reason: str) -> list[tuple[LiveOp, TesseraError]]:
        """With the last device gone: the ops that wait for one."""
        if any(seat.id != HOST and not seat.lost for seat in self.fleet):
            return []
        return [(self.graph[ready.key], NoDevice(reason)) for ready in self._ready]

    def _make_ready(self, live: LiveOp) -> None:
        if self.fleet.busy(live.key):
            return  # a device is still dropping this op for someone who cancelled; `released` comes then
        order = min(self._orders[job] for job in live.jobs)
        ready = ready_op(live, order, self._clock.now(), self._is_serial(live.op))
        if self._deaths.get(live.key):
            ready = replace(ready, alone=True)
        self._ready_by_key[live.key] = ready
        (self._calls if ready.kind == "host" else self._ready).add(ready)

    def _unready(self, key: OpKey) -> None:
        ready = self._ready_by_key.pop(key, None)
        if ready is not None:
            (self._calls if ready.kind == "host" else self._ready).remove(ready)


def _order(op: ReadyOp) -> tuple[float, int]:
    return op.order
