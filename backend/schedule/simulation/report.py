"""The study as Markdown with SVG charts. Equal studies give equal bytes."""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import TypeAlias

from backend.schedule.simulation.aims import aims
from backend.schedule.simulation.chart import bars
from backend.schedule.simulation.lineup import OURS, PAPER
from backend.schedule.simulation.ratios import RATIOS, Results
from backend.schedule.simulation.study import Found, Plan

Value: TypeAlias = Callable[[Found, str], float | None]


def report(plan: Plan, results: Results) -> dict[str, str]:
    """Files by name."""
    files = {"README.md": "\n".join([*_text(plan, results), ""])}
    files["rates.svg"] = _chart(
        "Highest request rate with 90 % of jobs in time", "jobs/s", plan, results, _rate
    )
    files["p99.svg"] = _chart("Latency, 99th percentile, at half the even rate", "s", plan, results, _p99)
    if plan.searches:
        files["bursts.svg"] = _chart("Largest burst survived", "x rate", plan, results, _burst)
        title = "Devices for the rate that the best whole pipelines bear"
        files["devices.svg"] = _chart(title, "devices", plan, results, _devices)
    return files


def _rate(found: Found, name: str) -> float | None:
    return found.rates.get(name)


def _p99(found: Found, name: str) -> float | None:
    return found.latencies[name].p99 if name in found.latencies else None


def _burst(found: Found, name: str) -> float | None:
    return found.bursts.get(name)


def _devices(found: Found, name: str) -> float | None:
    return found.devices.get(name)


def _chart(title: str, unit: str, plan: Plan, results: Results, value: Value) -> str:
    series = {
        name: [_mean([value(found, name) for found in every]) for every in results.values()]
        for name in plan.policies
    }
    return bars(title, unit, list(results), series)


def _text(plan: Plan, results: Results) -> list[str]:
    parts = [*_head(plan), "", *_summary(results), "", *aims(results), "", "![rates](rates.svg)", ""]
    limits = {"even": lambda f: f.limits.even, "most that any policy could": lambda f: f.limits.rate}
    parts += ["## Highest request rate (jobs/s)", "", *_table(plan, results, _rate, limits=limits), ""]
    parts += [
        "`even`: the rate at which all work, each pass as dear as alone, fills all devices. The last row",
        "gives up the largest tenth of the jobs, computes each row at the lowest price that any number of",
        "rows has, and loads nothing.",
        "",
    ]
    for slo in plan.looser:
        parts += [f"## The same where a job may take {slo:g} times its latency alone", ""]
        parts += [*_table(plan, results, lambda f, n, slo=slo: f.looser[slo].get(n)), ""]  # type: ignore[misc]
    parts += ["## Share of the work in time at the highest rate", ""]
    parts += [*_table(plan, results, lambda f, n: f.work.get(n)), ""]
    parts += [
        "Jobs are counted above; here each by its size: who drops the large ones has less in time.",
        "",
    ]
    parts += _latency_parts(plan, results)
    if plan.searches:
        parts += _search_parts(plan, results)
    if plan.ablations:
        parts += _ablation_parts(results)
    return parts


def _head(plan: Plan) -> list[str]:
    hardware, flags = plan.hardware, " ".join(f"--seed {seed}" for seed in plan.seeds)
    flags += f" --seconds {plan.seconds:g}" + "".join(f" --looser {slo:g}" for slo in plan.looser)
    return [
        "# The schedule, simulated",
        "",
        f"Made by `tessera simulate {flags}`: the live `plan()` and "
        "the baselines on simulated devices, with the costs that LegoDiffusion's authors published for an "
        "H800 (`backend/schedule/data/h800.json`), under traffic drawn from the statistics of two production "
        "traces (`workload.json`). The same seeds give the same bytes. How it is modelled, and what is not: "
        "[the model](model.md); what the figures say and don't: [the reading](reading.md).",
        "",
        f"{hardware.devices} devices of {hardware.memory} GiB, {hardware.weights:.0%} of it for weights; "
        f"{hardware.host * hardware.devices:.0f} GiB of host memory. A job is in time within {plan.slo:g} "
        "times the latency that it has alone; the bar is 90 % of jobs. "
        f"{plan.seconds:g} s of traffic a run, the first 15 % not counted. "
        f"Means over {len(plan.seeds)} seeds, and after ± half of what lies between the least and the most.",
    ]


def _latency_parts(plan: Plan, results: Results) -> list[str]:
    seen: dict[str, Value] = {
        "mean": lambda f, n: f.latencies[n].mean if n in f.latencies else None,
        "median": lambda f, n: f.latencies[n].p50 if n in f.latencies else None,
        "99th percentile": _p99,
    }
    parts = list[str]()
    for label, value in seen.items():
        parts += [f"## Latency without service levels, at half the even rate: {label} (s)", ""]
        parts += [*_table(plan, results, value), ""]
    parts += ["![p99](p99.svg)", "", "## Worst user's slowdown (mean latency / alone)", ""]
    parts += _table(plan, results, lambda f, n: f.latencies[n].slowdown if n in f.latencies else None)
    parts += ["", "## Fairness while everyone waits (Jain's index of service among backlogged users)", ""]
    both = [name for name in (OURS, PAPER) if name in plan.policies]
    parts += _table(plan, results, lambda f, n: f.fairness.get(n), names=both)
    parts += ["", "## Loads, same runs as the latencies (TiB to devices)", ""]
    parts += _table(plan, results, lambda f, n: f.traffic[n][0] if n in f.traffic else None)
    parts += ["", "## Weights held at most, same runs (GiB)", ""]
    return parts + _table(plan, results, lambda f, n: f.traffic[n][1] if n in f.traffic else None)


def _search_parts(plan: Plan, results: Results) -> list[str]:
    bursts = {"most that any policy could": lambda f: f.limits.burst}
    fewest = {"fewest that any policy could do with": lambda f: float(f.limits.devices)}
    return [
        "",
        f"## Largest burst survived (factor on a low rate for {plan.minutes:g} minutes)",
        "",
        *_table(plan, results, _burst, limits=bursts),
        "",
        "![bursts](bursts.svg)",
        "",
        "## Fewest devices for the rate that the best whole pipelines bear",
        "",
        *_table(plan, results, _devices, limits=fewest),
        "",
        "![devices](devices.svg)",
    ]


def _summary(results: Results) -> list[str]:
    lines = ["| Tessera against | " + " | ".join(results) + " | over all |", _rule(len(results) + 1)]
    for ratio in RATIOS:
        cells = {preset: [ratio.of(found) for found in every] for preset, every in results.items()}
        means = [mean for values in cells.values() if (mean := _mean(values)) is not None]
        if means:
            row = " | ".join(_spread(values) for values in cells.values())
            lines.append(f"| {ratio.name} | {row} | {_over_all(ratio.over_all, means)} |")
    return lines


def _over_all(how: str, means: Sequence[float]) -> str:
    match how:
        case "most":
            return f"{max(means):.2f} at best"
        case "least":
            return f"{min(means):.2f} at best"
        case "worst":
            return f"{max(means):.2f} at worst"
    return f"{prod(means) ** (1 / len(means)):.2f} geometric mean"


def _table(
    plan: Plan,
    results: Results,
    value: Value,
    *,
    names: Sequence[str] | None = None,
    limits: Mapping[str, Callable[[Found], float]] | None = None,
) -> list[str]:
    lines = ["| | " + " | ".join(results) + " |", _rule(len(results))]
    for name in names or plan.policies:
        cells = [_spread([value(found, name) for found in every]) for every in results.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    for label, limit in (limits or {}).items():
        cells = [_spread([limit(found) for found in every]) for every in results.values()]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return lines


def _ablation_parts(results: Results) -> list[str]:
    return [
        "",
        "## What each rule is worth",
        "",
        "Share of jobs in time at 95 % of the highest rate.",
        "",
        *_ablation(results, 0),
        "",
        "Times as long as alone that jobs take, in the mean, without service levels, at half the even rate.",
        "",
        *_ablation(results, 1),
    ]


def _ablation(results: Results, figure: int) -> list[str]:
    lines = ["| | " + " | ".join(results) + " | mean |", _rule(len(results) + 1)]
    for label in next(iter(results.values()))[0].ablation:
        rows = [[found.ablation[label][figure] for found in every] for every in results.values()]
        means = [sum(values) / len(values) for values in rows]
        cells = " | ".join(f"{mean:.3f}" for mean in [*means, sum(means) / len(means)])
        lines.append(f"| {label} | {cells} |")
    return lines


def _rule(columns: int) -> str:
    return "|---|" + "---|" * columns


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _spread(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    half, missing = (max(known) - min(known)) / 2, len(values) - len(known)
    text = f"{sum(known) / len(known):.3g}" + (f" ± {half:.2g}" if len(known) > 1 else "")
    return text + (f" ({missing} without)" if missing else "")
