"""What the report's first table compares: Tessera's figures against others', and the most that could be."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias

from backend.schedule.simulation.lineup import OURS, PAPER, PIPELINES
from backend.schedule.simulation.study import Found
from backend.schedule.simulation.workload import Preset
from backend.values import frozen

Results: TypeAlias = Mapping[Preset, Sequence[Found]]


@frozen
class Ratio:
    """of: a preset's value, None where it was not measured. over_all: of the presets' means."""

    name: str
    of: Callable[[Found], float | None]
    over_all: Literal["most", "least", "worst", "geometric"]


def rate(found: Found) -> float | None:
    return _over(found.rates.get(OURS), found.best_pipeline(found.rates))


def rate_at_most(found: Found) -> float | None:
    return _over(found.limits.rate, found.best_pipeline(found.rates))


def burst(found: Found) -> float | None:
    return _over(found.bursts.get(OURS), found.best_pipeline(found.bursts))


def burst_at_most(found: Found) -> float | None:
    return _over(found.limits.burst or None, found.best_pipeline(found.bursts))


def devices(found: Found) -> float | None:
    return _over(found.devices.get(OURS), _fewest(found))


def devices_at_least(found: Found) -> float | None:
    return _over(found.limits.devices or None, _fewest(found))


def rate_of_paper(found: Found) -> float | None:
    return _over(found.rates.get(OURS), found.rates.get(PAPER))


def p99_of_paper(found: Found) -> float | None:
    if OURS not in found.latencies or PAPER not in found.latencies:
        return None
    return _over(found.latencies[OURS].p99, found.latencies[PAPER].p99)


def rate_of_limit(found: Found) -> float | None:
    return _over(found.rates.get(OURS), found.limits.rate)


RATIOS = (
    Ratio("best whole pipelines: rate", rate, "most"),
    Ratio("… and the most that any policy could", rate_at_most, "most"),
    Ratio("best whole pipelines: burst", burst, "most"),
    Ratio("… and the most that any policy could", burst_at_most, "most"),
    Ratio("best whole pipelines: devices", devices, "least"),
    Ratio("… and the fewest that any policy could do with", devices_at_least, "least"),
    Ratio("the paper's policy: rate", rate_of_paper, "geometric"),
    Ratio("the paper's policy: p99 latency", p99_of_paper, "worst"),
    Ratio("the most that any policy could: rate", rate_of_limit, "geometric"),
)


def _fewest(found: Found) -> int | None:
    return min((n for name in PIPELINES if (n := found.devices.get(name)) is not None), default=None)


def _over(value: float | None, other: float | None) -> float | None:
    return None if value is None or not other else value / other
