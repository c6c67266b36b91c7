"""When each unfinished job will be over, from what the board knows of its ops."""

from collections.abc import Iterable, Mapping
from math import inf

from backend.engine.board import Board
from backend.engine.jobs import Job
from backend.engine.ready import cost_of, weights_of
from backend.ops import Call
from backend.schedule.forecast import Backlog, Forecast, Forecaster, fluid
from backend.types import ComponentId, JobId, JobKey, Seconds

_EVERY = 1.0  # seconds between two jobs that are learned from: many at once tell no more, and asking costs


class Forecasts:
    """Says how long a job will take when it comes, and learns from what it took."""

    def __init__(self, board: Board) -> None:
        self._board, self._forecaster = board, Forecaster()
        self._asked = -inf
        self._said: dict[JobKey, tuple[Seconds, Seconds]] = {}

    def came(self, key: JobKey, jobs: Mapping[JobKey, Job], now: Seconds) -> None:
        """Keep what is said of a job at its arrival."""
        if now - self._asked < _EVERY:
            return
        self._asked = now
        said = self._fluid(jobs.values()).get(key)
        if said is not None:
            self._said[key] = (now, said)

    def ended(self, key: JobKey, now: Seconds, *, succeeded: bool) -> None:
        began, said = self._said.pop(key, (now, 0.0))
        if succeeded:
            self._forecaster.learn(said, now - began)

    def of(self, jobs: Mapping[JobKey, Job]) -> dict[JobId, Forecast]:
        """Of the jobs about which something can be said: those with work for devices, once a pass was
        timed.
        """
        found = self._fluid(jobs.values())
        return {jobs[key].record.id: self._forecaster.forecast(seconds) for key, seconds in found.items()}

    def _fluid(self, jobs: Iterable[Job]) -> dict[JobKey, Seconds]:
        if self._board.pool.profile.measured is None:
            return {}  # figures of another machine say nothing of this one
        backlogs = {job.key: backlog for job in jobs if (backlog := self._backlog(job)) is not None}
        return fluid(backlogs, len(self._board.pool.devices.workers))

    def _backlog(self, job: Job) -> Backlog | None:
        board, work, calls = self._board, 0.0, 0.0
        profile, cold = board.pool.profile, set[ComponentId]()
        for key in board.graph.of_job(job.key):
            live = board.graph[key]
            cost = board.pool.left(key)
            seconds = cost_of(live.op, profile) if cost is None else cost
            if isinstance(live.op, Call):
                calls += seconds
            else:
                work += seconds
                cold.update(w.id for w in weights_of(live.op) if w.id in board.pool.cold)
        if not work:
            return None
        loads = sum(profile.load(component) for component in cold)
        return Backlog(job.claim.user, job.order, work + loads, work + loads + calls)
