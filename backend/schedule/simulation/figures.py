"""What an outcome is worth: attainment, latency, fairness; and searches for the most that a policy bears."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from backend.schedule.forecast import Backlog, Forecast, Forecaster, fluid
from backend.schedule.simulate import Ending, Hardware, OpenJob, Outcome, Simulation
from backend.schedule.simulation.catalogue import Catalogue
from backend.schedule.simulation.lineup import OURS, maker, patient, simulate
from backend.schedule.simulation.workload import Traffic, jobs
from backend.types import Seconds

BAR = 0.9  # of the jobs must be in time
WARM_UP = 0.15  # of a run does not count: weights are still being loaded
_WINDOW = 60.0  # seconds in which service is compared
_FACTOR, _FINE = 1.4, 1.06  # steps of a search, coarse and at its end


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds, of jobs that ended. slowdown: of the user who fares worst, in the mean, against running
    alone.
    """

    mean: Seconds
    p50: Seconds
    p99: Seconds
    slowdown: float


def counted(outcome: Outcome) -> list[Ending]:
    """The endings that count."""
    if not outcome.endings:
        return []
    last = outcome.endings[-1].job.arrived
    return [ending for ending in outcome.endings if ending.job.arrived >= WARM_UP * last]


def attainment(outcome: Outcome) -> float:
    """Share of jobs that were in time."""
    endings = counted(outcome)
    return sum(ending.in_time for ending in endings) / max(1, len(endings))


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


# -- searches ------------------------------------------------------------------------------------


def bound(traffic: Traffic, hardware: Hardware) -> float:
    """Jobs a second that all devices could compute if each pass were as dear as alone and nothing else took
    time.
    """
    drawn = jobs(replace(traffic, rate=2.0, seconds=3600.0, step=1.0), Catalogue())
    return hardware.devices * len(drawn) / sum(job.work for job in drawn)


def highest_rate(name: str, traffic: Traffic, hardware: Hardware, start: float) -> float:
    """Most jobs a second with enough of them in time. start: where to look first."""
    return _highest(
        lambda rate: attainment(simulate(name, replace(traffic, rate=rate), hardware)) >= BAR, start
    )


def highest_burst(name: str, traffic: Traffic, hardware: Hardware, minutes: float) -> float:
    """The largest factor on the rate for some minutes, after which enough jobs were in time."""
    begin = 0.25 * traffic.seconds
    burst = replace(traffic, step_from=begin, step_to=begin + 60 * minutes)

    def bears(factor: float) -> bool:
        outcome = simulate(name, replace(burst, step=factor), hardware)
        hit = [e for e in outcome.endings if begin <= e.job.arrived < begin + 60 * minutes]
        return sum(e.in_time for e in hit) >= BAR * len(hit)

    return _highest(bears, 2.0)


def fewest_devices(name: str, traffic: Traffic, hardware: Hardware, most: int = 64) -> int | None:
    """For the rate of `traffic`; None where even `most` are too few."""

    def bears(devices: int) -> bool:
        return attainment(simulate(name, traffic, replace(hardware, devices=devices))) >= BAR

    low, high = 0, 1
    while not bears(high):
        if high >= most:
            return None
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if bears(middle) else (middle, high)
    return high


def _highest(bears: Callable[[float], bool], start: float) -> float:
    low = start
    while not bears(low):
        low /= _FACTOR
        if low < 0.01 * start:
            return 0.0
    high = low * _FACTOR
    while bears(high) and high < 100 * start:
        low, high = high, high * _FACTOR
    while high / low > _FINE:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if bears(middle) else (low, middle)
    return low


def calm_latency(name: str, traffic: Traffic, hardware: Hardware) -> Latency:
    """Without service levels, so that every job counts."""
    return latency(simulate(name, patient(traffic), hardware))


def crowded_fairness(name: str, traffic: Traffic, hardware: Hardware) -> float | None:
    """While everyone wants more than there is."""
    return fairness(simulate(name, patient(traffic), hardware))


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
