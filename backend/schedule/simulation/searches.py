"""Searches for the most that a policy bears. A trial ends as soon as it is decided."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from backend.schedule.rules import Rules
from backend.schedule.simulate import Ending, Hardware, Simulation
from backend.schedule.simulation.bounds import BAR
from backend.schedule.simulation.catalogue import Catalogue
from backend.schedule.simulation.figures import first_counted
from backend.schedule.simulation.lineup import ALL, maker, variants
from backend.schedule.simulation.workload import Job, Traffic, jobs

_FACTOR, _FINE = 1.4, 1.08  # steps of a search, coarse and at its end


class _Decided(Exception):
    """It is known how a trial ends."""


@dataclass(slots=True)
class _Trial(Simulation):
    """counts: the jobs that matter; more than `spare` of them late, or all others in time, and it ends."""

    counts: Callable[[Job], bool] = lambda job: True
    spare: int = 0
    left_to_do: int = 0

    def left(self, ending: Ending) -> None:
        if not self.counts(ending.job):
            return
        if ending.in_time:
            self.left_to_do -= 1
        else:
            self.spare -= 1
        if self.spare < 0 or not self.left_to_do:
            raise _Decided


def bears(
    name: str, traffic: Traffic, hardware: Hardware, counts: Callable[[Job], bool], rules: Rules = ALL
) -> bool:
    """Whether enough of the jobs that count are in time, under one of the policy's variants."""
    catalogue = Catalogue()
    drawn = jobs(traffic, catalogue)
    total = sum(map(counts, drawn))
    needed = -int(-BAR * total // 1)  # rounded up
    if not total:
        return True
    for variant in variants(name):
        make = maker(variant, drawn, rules)
        trial = _Trial(drawn, catalogue, hardware, make)
        trial.counts, trial.spare, trial.left_to_do = counts, total - needed, needed
        with suppress(_Decided):
            trial.run()
        if trial.spare >= 0:
            return True
    return False


def highest_rate(name: str, traffic: Traffic, hardware: Hardware, start: float, rules: Rules = ALL) -> float:
    """Most jobs a second with enough of them in time. start: where to look first."""

    def bears_rate(rate: float) -> bool:
        at = replace(traffic, rate=rate)
        warm = first_counted(jobs(at, Catalogue()))
        return bears(name, at, hardware, lambda job: job.arrived >= warm, rules)

    return _highest(bears_rate, start)


def highest_burst(name: str, traffic: Traffic, hardware: Hardware, minutes: float) -> float:
    """The largest factor on the rate for some minutes in which enough jobs came that were in time."""
    begin = 0.25 * traffic.seconds
    end = begin + 60 * minutes
    burst = replace(traffic, step_from=begin, step_to=end)

    def bears_burst(factor: float) -> bool:
        at = replace(burst, step=factor)
        return bears(name, at, hardware, lambda job: begin <= job.arrived < end)

    return _highest(bears_burst, 2.0)


def fewest_devices(name: str, traffic: Traffic, hardware: Hardware, most: int = 64) -> int | None:
    """For the rate of `traffic`; None where even `most` are too few."""
    warm = first_counted(jobs(traffic, Catalogue()))

    def enough(devices: int) -> bool:
        return bears(name, traffic, replace(hardware, devices=devices), lambda job: job.arrived >= warm)

    low, high = 0, 1
    while not enough(high):
        if high >= most:
            return None
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _highest(bears_it: Callable[[float], bool], start: float) -> float:
    low = high = start
    while not bears_it(low):
        low, high = low / _FACTOR, low
        if low < 0.01 * start:
            return 0.0
    while low == high or (high < 100 * start and bears_it(high)):
        low, high = high, high * _FACTOR
    while high / low > _FINE:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if bears_it(middle) else (low, middle)
    return low
