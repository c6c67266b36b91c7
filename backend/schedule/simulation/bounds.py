"""What no policy can exceed, whatever it does: computed from the profile and the very jobs that are drawn.

A tenth of the jobs may be given up: the largest. Every row is computed at the lowest price that any number of
rows has; nothing is loaded, nothing waits, and no device is ever without work.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from math import ceil

from backend.schedule.simulation.catalogue import Catalogue
from backend.schedule.simulation.workload import Job, Traffic, jobs
from backend.types import ComponentId, Seconds

BAR = 0.9  # of the jobs must be in time
_ROWS = 128  # of a pass at most: eight jobs of eight guided images


def drawn_for_bounds(traffic: Traffic) -> tuple[Job, ...]:
    """An hour of the same traffic."""
    return _drawn(replace(traffic, rate=2.0, seconds=3600.0, step=1.0))


def even_rate(drawn: Sequence[Job], devices: int) -> float:
    """Jobs a second that devices compute if all jobs are done and each pass is as dear as alone."""
    return devices * len(drawn) / sum(job.work for job in drawn)


def highest_rate(drawn: Sequence[Job], devices: int) -> float:
    """Jobs a second of which so many devices can compute enough."""
    return devices * len(drawn) / sum(_kept([least(job) for job in drawn], len(drawn)))


def fewest_devices(drawn: Sequence[Job], rate: float) -> int:
    return ceil(rate / highest_rate(drawn, 1))


def highest_burst(drawn: Sequence[Job], devices: int, low: float, seconds: Seconds) -> float:
    """The largest factor on `low` jobs a second that lasts so long.

    What is due soon after its arrival must be computed until soon after the burst: for each span of time the
    jobs that have no more than it.
    """
    costs = sorted((job.due - job.arrived, least(job)) for job in drawn)
    factors = []
    for tenth in range(1, 11):
        within = costs[: max(1, len(costs) * tenth // 10)]
        work = sum(_kept([cost for _, cost in within], len(drawn)))
        if work:
            factors.append(devices * (seconds + within[-1][0]) * len(drawn) / (low * seconds * work))
    return min(factors)


def least(job: Job) -> Seconds:
    """What a job computes at the lowest prices."""
    return _least(replace(job, id=0, arrived=0.0, user="", due=0.0))


def _kept(costs: Sequence[Seconds], jobs: int) -> list[Seconds]:
    """Without the largest, as many as may be given up of so many jobs."""
    return sorted(costs)[: max(0, len(costs) - int((1 - BAR) * jobs))]


@lru_cache(100_000)
def _least(job: Job) -> Seconds:
    family, rows = job.base.family, job.rows
    seconds = job.passes * rows * (_price(job.base.denoiser) + sum(map(_price, job.controlnets)))
    seconds += (2 if family.guided else 1) * sum(_price(ComponentId(name)) for name in family.encoders)
    return seconds + job.images * _price(ComponentId(family.vae))


@lru_cache(10_000)
def _price(component: ComponentId) -> Seconds:
    """Seconds of a row, at the best number of rows."""
    catalogue = Catalogue()
    return min(catalogue.seconds(component, rows) / rows for rows in range(1, _ROWS + 1))


@lru_cache(64)
def _drawn(traffic: Traffic) -> tuple[Job, ...]:
    return tuple(jobs(traffic, Catalogue()))
