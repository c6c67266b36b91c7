"""Every unfinished job: what its client is told, and how it ends, be it by a fault of the engine's own."""

import logging
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from backend.engine.asks import Asks
from backend.engine.board import Board
from backend.engine.clock import Clock
from backend.engine.events import Event, QueueChanged
from backend.engine.forecasts import Forecasts
from backend.engine.jobs import Job
from backend.engine.ready import Claim
from backend.engine.record import JobStatus
from backend.engine.store import Store
from backend.errors import EngineFault
from backend.graph.frontier import LiveOp, State
from backend.types import JobKey, NodeId, OpKey
from backend.worker.messages import Failed

log = logging.getLogger(__name__)


class Roster:
    """jobs: by key; asks: what their running calls wait for; forecasts: when they will be over."""

    def __init__(self, board: Board, store: Store, clock: Clock) -> None:
        self.jobs: dict[JobKey, Job] = {}
        self.asks, self.forecasts = Asks(board), Forecasts(board)
        self._board, self._store, self._clock = board, store, clock
        self._listeners: list[Callable[[Event], None]] = []

    def among(self, keys: Iterable[JobKey]) -> list[Job]:
        """Those of the named jobs that are not over."""
        return [self.jobs[key] for key in keys if key in self.jobs]

    def claim_of(self, key: JobKey) -> Claim:
        return self.jobs[key].claim

    def changed(self) -> None:
        """Tell everyone how many jobs there are."""
        self.emit(QueueChanged(len(self.jobs)))

    # -- who listens, and what may go wrong --------------------------------------------------------

    def subscribe(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def emit(self, event: Event) -> None:
        for listener in self._listeners:
            try:
                listener(event)
            except Exception as error:  # as in `guarded`, which would cost as much as telling
                self._failed(error, None, ())

    def guarded(
        self, step: Callable[[], None], key: OpKey | None = None, jobs: Collection[JobKey] = ()
    ) -> None:
        """Take one step of the loop. One that raises ends the jobs concerned, and no other.

        key: the op that it is about.
        """
        try:
            step()
        except Exception as error:  # a fault of ours: who waits for this must hear of it, and the loop go on
            self._failed(error, key, jobs)

    def _failed(self, error: Exception, key: OpKey | None, jobs: Collection[JobKey]) -> None:
        log.error("The engine failed (op %s), and with it %d jobs", key, len(jobs), exc_info=error)
        for job in self.among(jobs):
            self.guarded(partial(self._break_off, job, key, error))

    def _break_off(self, job: Job, key: OpKey | None, error: Exception) -> None:
        """End a job because of a fault of ours."""
        self.guarded(partial(self.begin, job))
        known = key is not None and (key in job.nodes_of or key in job.lowering.asked)
        node = job.node_of(key) if known and key is not None else job.at
        frames = tuple(traceback.format_tb(error.__traceback__))
        fault = EngineFault(error)
        self.fail(job, node, Failed(key or OpKey(""), type(fault).__name__, str(fault), frames, None))

    # -- a job begins, and its client hears of its nodes -------------------------------------------

    def begin(self, job: Job) -> None:
        """The job starts: its first op runs, or nothing of it has to."""
        if job.started:
            return
        job.started = True
        job.record = replace(job.record, status="running", started=self._clock.epoch_ms())
        self._store.mark_started(job.record.sequence, self._clock.epoch_ms())
        self.changed()
        cached = set(job.cached)
        job.narrator.started([id for id in job.lowering.prompt.nodes if id in cached])
        for id in job.lowering.outputs:
            if id in cached:
                job.narrator.node_cached(id, self._ui(job, id))
        job.cached.clear()
        self.tell_lowered(job)
        for key in self._board.graph.of_job(job.key):
            live = self._board.graph[key]
            if live.state is State.RUNNING and not live.missing:  # a call behind another has not begun
                self._tell_running(job, key)

    def tell_lowered(self, job: Job) -> None:
        ends = (*job.lowering.outputs, *job.lowering.inner_outputs)
        for id in job.cached:
            if id in ends:
                job.narrator.node_cached(id, self._ui(job, id))
        for id in job.instant:
            self.tell_finished(job, id, self._ui(job, id))
        job.cached.clear()
        job.instant.clear()

    def tell_sent(self, job: Job, key: OpKey) -> None:
        self.begin(job)
        self._tell_running(job, key)

    def _tell_running(self, job: Job, key: OpKey) -> None:
        for id in job.waiting_for(key):
            if id in job.resumed:
                job.resumed.discard(id)
                job.narrator.node_resumed(id)
            else:
                job.narrator.node_running(id)

    def tell_finished(
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

    # -- a job ends ------------------------------------------------------------------------------

    def succeed(self, job: Job) -> None:
        job.narrator.succeeded()
        self._end(job, "completed")

    def interrupt(self, job: Job, node: NodeId) -> None:
        real = job.real(node)
        job.narrator.interrupted(real, job.class_of(real))
        self._end(job, "cancelled")

    def fail(self, job: Job, node: NodeId, error: Failed) -> None:
        real = job.real(node)
        told = job.narrator.failed(real, job.class_of(real), error, tuple(job.lowering.dynamic.nodes))
        self._end(job, "failed", told)

    def fail_op(self, job: Job, key: OpKey, error: Failed) -> None:
        if self.asks.failed(job, key, error) and not job.waiting_for(key):
            return  # the node that asked for it hears of it
        self.fail(job, job.node_of(key), error)

    def fail_all(self, live: LiveOp, error: Failed, jobs: Collection[JobKey] | None = None) -> None:
        """Every job that wants the op fails, or these of them."""
        for job in self.among(live.jobs if jobs is None else jobs):
            self.guarded(partial(self.fail_op, job, live.key, error), live.key, (job.key,))

    def drop(self, job: Job) -> None:
        """A job that has not begun is taken back."""
        del self.jobs[job.key]
        self._release(job, "cancelled")
        self.changed()

    def _end(self, job: Job, status: JobStatus, error: Mapping[str, object] | None = None) -> None:
        """Every started job comes here once, whatever became of it."""
        narrator = job.narrator
        self.jobs.pop(job.key, None)
        self.changed()
        narrator.ended()  # it waits for this; what is left to do is done before its next request is read
        ended = replace(
            job.record,
            status=status,
            ended=self._clock.epoch_ms(),
            outputs=narrator.outputs,
            meta=narrator.meta,
            messages=tuple(narrator.messages),
            error=error,
        )
        self._store.finish(ended)
        self._release(job, status)

    def _release(self, job: Job, status: JobStatus) -> None:
        """A job is over: nothing is kept, or run, for it any more."""
        self._board.trace.job_ended(job.key, status)
        self.forecasts.ended(job.key, self._clock.now(), succeeded=status == "completed")
        for key in job.held:
            self._board.results.unpin(key)
        self._board.results.prompt_ended(job.record.client, job.held)
        self._board.drop(job.key)
        self.asks.job_left(self.claim_of)
