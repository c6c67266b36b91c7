"""What was aimed at, what came out, and what bounds it."""

from collections.abc import Callable, Sequence
from statistics import geometric_mean

from backend.schedule.simulation import ratios
from backend.schedule.simulation.lineup import OURS
from backend.schedule.simulation.ratios import Results
from backend.schedule.simulation.study import Found

Of = Callable[[Found], float | None]
Over = Callable[[Sequence[float]], float]


def aims(results: Results) -> list[str]:
    """A table: each aim, what was reached, whether that meets it, and the most that any policy could."""
    rate, burst, devices = (
        (_means(results, of), _means(results, limit))
        for of, limit in (
            (ratios.rate, ratios.rate_at_most),
            (ratios.burst, ratios.burst_at_most),
            (ratios.devices, ratios.devices_at_least),
        )
    )
    paper, p99 = _means(results, ratios.rate_of_paper), _means(results, ratios.p99_of_paper)
    fair = _means(results, lambda found: found.fairness.get(OURS))
    rows = [
        _at_least("rate against the best whole pipelines, at best", 3.5, max, rate),
        _at_least("the same, where it is least", 1.0, min, rate[:1]),
        _at_least("burst against them, at best", 10.0, max, burst),
        _at_most("devices against them, at best", 1 / 3, min, devices),
        _at_least("rate against the paper's policy, geometric mean", 1.25, geometric_mean, (paper,)),
        _at_most("99th percentile against the paper's, where it is most", 1.0, max, (p99,)),
        _at_least("fairness, where it is least", 0.95, min, (fair,)),
    ]
    head = ["| aim | | reached | met | most that any policy could |", "|---|---|---|---|---|"]
    return [*head, *(row for row in rows if row)]


def _at_least(name: str, aim: float, over: Over, values: Sequence[Sequence[float]]) -> str:
    reached = [over(means) for means in values if means]
    return _row(name, f"≥ {aim:g}", reached, reached[:1] >= [aim])


def _at_most(name: str, aim: float, over: Over, values: Sequence[Sequence[float]]) -> str:
    reached = [over(means) for means in values if means]
    return _row(name, f"≤ {aim:.2f}", reached, reached[:1] <= [aim])


def _row(name: str, aim: str, reached: Sequence[float], met: bool) -> str:
    """reached: and, where it was computed, what bounds it."""
    if not reached:
        return ""
    most = f"{reached[1]:.2f}" if len(reached) > 1 else ""
    return f"| {name} | {aim} | {reached[0]:.2f} | {'yes' if met else 'no'} | {most} |"


def _means(results: Results, of: Of) -> Sequence[float]:
    """Each preset's mean over its seeds."""
    found = []
    for every in results.values():
        values = [value for one in every if (value := of(one)) is not None]
        if values:
            found.append(sum(values) / len(values))
    return found
