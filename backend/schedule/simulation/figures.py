"""What an outcome is worth: attainment, latency, fairness, and how well the end of jobs was foretold."""

from collections.abc import Sequence

from backend.schedule.forecast import Backlog, Forecast, Forecaster, fluid
from backend.schedule.simulate import Ending, Hardware, OpenJob, Outcome, Simulation
from backend.schedule.simulation.catalogue import Catalogue
from backend.schedule.simulation.lineup import OURS, maker, patient
from backend.schedule.simulation.workload import Job, Traffic, jobs
from backend.types import Seconds
from backend.values import frozen

WARM_UP = 0.15  # of a run does not count: weights are still being loaded
_WINDOW = 60.0  # seconds in which service is compared


@frozen
class Latency:
    """Seconds, of jobs that ended. slowdown: of the user who fares worst, in the mean, against running
    alone.
    """

    mean: Seconds
    p50: Seconds
    p99: Seconds
    slowdown: float


def first_counted(drawn: Sequence[Job]) -> Seconds:
    """From when on jobs count."""
    return WARM_UP * drawn[-1].arrived if drawn else 0.0


def counted(outcome: Outcome) -> list[Ending]:
    """The endings that count."""
    begin = first_counted([ending.job for ending in outcome.endings])
    return [ending for ending in outcome.endings if ending.job.arrived >= begin]


def attainment(outcome: Outcome) -> float:
    """Share of jobs that were in time."""
    endings = counted(outcome)
    return sum(ending.in_time for ending in endings) / max(1, len(endings))


def work_in_time(outcome: Outcome) -> float:
    """Share of the work of all jobs that was in time."""
    endings = counted(outcome)
    work = sum(ending.job.work for ending in endings)
    return sum(ending.job.work for ending in endings if ending.in_time) / work if work else 1.0


def slowdown(outcome: Outcome) -> float:
    """How many times as long as alone jobs took in the mean: all that ended, the first as well."""
    ratios = [(e.ended - e.job.arrived) / e.job.solo for e in outcome.endings if e.ended is not None]
    return sum(ratios) / max(1, len(ratios))


def latency(outcome: Outcome) -> Latency:
    ended = [(e.ended - e.job.arrived, e.job) for e in counted(outcome) if e.ended is not None]
    times = sorted(seconds for seconds, _ in ended)
    if not times:
        return Latency(0.0, 0.0, 0.0, 0.0)
    slow: dict[str, list[float]] = {}
    for seconds, job in ended:
        slow.setdefault(job.user, []).append(seconds / job.solo)
    worst = max(sum(values) / len(values) for values in slow.values())
    at = (len(times) - 1) / 100
    return Latency(sum(times) / len(times), times[round(50 * at)], times[round(99 * at)], worst)


def fairness(outcome: Outcome) -> float | None:
    """Jain's index of the service that users received in a window in which ops of theirs waited all the
    time; the mean over the windows with two such users or more, None where there is none.
    """
    windows: dict[int, dict[str, float]] = {}
    for begin, end, user, seconds in outcome.served:
        first, last = int(begin // _WINDOW), int(end // _WINDOW)
        for index in range(first, last + 1):
            share = min(end, (index + 1) * _WINDOW) - max(begin, index * _WINDOW)
            window = windows.setdefault(index, {})
            window[user] = window.get(user, 0.0) + seconds * share / max(1e-9, end - begin)
    found = [
        _jain([window.get(user, 0.0) for user in users]) for window, users in _backlogged(outcome, windows)
    ]
    return sum(found) / len(found) if found else None


def _backlogged(
    outcome: Outcome, windows: dict[int, dict[str, float]]
) -> list[tuple[dict[str, float], list[str]]]:
    out = []
    for index, window in windows.items():
        begin, end = index * _WINDOW, (index + 1) * _WINDOW
        users = [
            user
            for user, times in sorted(outcome.backlog.items())
            if sum(max(0.0, min(end, b) - max(begin, a)) for a, b in times) > 0.98 * _WINDOW
        ]
        if len(users) > 1:
            out.append((window, users))
    return out


def _jain(values: list[float]) -> float:
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 1.0


def forecasts_made(traffic: Traffic, hardware: Hardware) -> list[tuple[Forecast, Seconds]]:
    """What `plan()`'s forecast says of each job when it comes, and what it took. Nothing is refused."""
    catalogue = Catalogue()
    drawn = jobs(patient(traffic), catalogue)
    simulation = _Asked(drawn, catalogue, hardware, maker(OURS, drawn))
    simulation.run()
    return simulation.made


class _Asked(Simulation):
    """A simulation that says of each job when it will be over."""

    def run(self) -> Outcome:
        self.made: list[tuple[Forecast, Seconds]] = []
        self._forecaster = Forecaster()
        self._said: dict[int, tuple[Seconds, Forecast]] = {}
        return super().run()

    def arrived(self, opened: OpenJob) -> None:
        said = fluid({id: self._queued(job) for id, job in self.open.items()}, len(self.fleet.units))
        seconds = said[opened.job.id]
        self._said[opened.job.id] = (seconds, self._forecaster.forecast(seconds))

    def _queued(self, opened: OpenJob) -> Backlog:
        left = opened.costs[opened.ended :]
        task = opened.tasks[min(opened.ended, len(opened.tasks) - 1)]
        work = max(0.0, sum(left) - left[0] * task.done / task.passes)
        return Backlog(opened.job.user, (opened.job.id, opened.job.id), work, work)

    def left(self, ending: Ending) -> None:
        seconds, forecast = self._said.pop(ending.job.id)
        took = ending.left - ending.job.arrived
        self._forecaster.learn(seconds, took)
        self.made.append((forecast, took))
