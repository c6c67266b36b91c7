"""The study as Markdown with SVG charts. Equal studies give equal bytes."""

from collections.abc import Callable, Mapping, Sequence
from math import prod

from backend.schedule.simulation.chart import bars
from backend.schedule.simulation.lineup import OURS, PAPER, PIPELINES
from backend.schedule.simulation.study import Found, Plan
from backend.schedule.simulation.workload import Preset

Results = Mapping[Preset, Found]


def report(plan: Plan, results: Results) -> dict[str, str]:
    """Files by name."""
    files = {"README.md": _text(plan, results)}
    files["rates.svg"] = _chart(
        "Highest request rate with 90 % of jobs in time", "jobs/s", plan, results, _rate
    )
    files["p99.svg"] = _chart("Latency, 99th percentile, at half the bound", "s", plan, results, _p99)
    if plan.searches:
        files["bursts.svg"] = _chart("Largest burst survived", "x rate", plan, results, _burst)
        files["devices.svg"] = _chart(
            "Devices for the rate that the best whole pipelines bear", "devices", plan, results, _devices
        )
    return files


def _rate(found: Found, name: str) -> float | None:
    return found.rates.get(name)


def _p99(found: Found, name: str) -> float | None:
    return found.latencies[name].p99 if name in found.latencies else None


def _burst(found: Found, name: str) -> float | None:
    return found.bursts.get(name)


def _devices(found: Found, name: str) -> float | None:
    return found.devices.get(name)


def _chart(
    title: str, unit: str, plan: Plan, results: Results, value: Callable[[Found, str], float | None]
) -> str:
    series = {name: [value(found, name) for found in results.values()] for name in plan.policies}
    return bars(title, unit, list(results), series)


def _text(plan: Plan, results: Results) -> str:
    hardware = plan.hardware
    parts = [
        "# The schedule, simulated",
        "",
        f"Made by `tessera simulate --seed {plan.seed} --seconds {plan.seconds:g}`: the live `plan()` and "
        "the baselines on simulated devices, with the costs that LegoDiffusion's authors published for an "
        "H800 (`backend/schedule/data/h800.json`), under traffic drawn from the statistics of two production "
        "traces (`workload.json`). The same seed gives the same bytes. How it is modelled, and what is not: "
        "[the model](model.md).",
        "",
        f"{hardware.devices} devices of {hardware.memory} GiB, {hardware.weights:.0%} of it for weights; "
        f"{hardware.host * hardware.devices:.0f} GiB of host memory. A job is in time within {plan.slo:g} "
        "times the latency that it has alone; the bar is 90 % of jobs. "
        f"{plan.seconds:g} s of traffic a run, the first 15 % not counted.",
        "",
        *_summary(results),
        "",
        "![rates](rates.svg)",
        "",
        "## Highest request rate (jobs/s)",
        "",
        *_table(plan, results, _rate, extra=True),
        "",
        "`bound`: total work / devices, with each pass as dear as alone. Shared passes, and refusing "
        "a tenth of the jobs, may go beyond it.",
        "",
        "## Latency without service levels, at half the bound (mean / p50 / p99, s)",
        "",
        *_table(plan, results, _latencies),
        "",
        "![p99](p99.svg)",
        "",
        "## Worst user's slowdown (mean latency / alone)",
        "",
        *_table(plan, results, lambda f, n: f.latencies[n].slowdown if n in f.latencies else None),
        "",
        "## Fairness while everyone waits (Jain's index of service among backlogged users)",
        "",
        *_table(plan, results, lambda f, n: f.fairness.get(n), names=(OURS, PAPER)),
        "",
        "## Loads (TiB to devices / most GiB held), same runs as the latencies",
        "",
        *_table(plan, results, _loads),
    ]
    if plan.searches:
        parts += [
            "",
            f"## Largest burst survived (factor on a low rate for {plan.minutes:g} minutes)",
            "",
            *_table(plan, results, _burst),
            "",
            "![bursts](bursts.svg)",
            "",
            "## Fewest devices for the rate that the best whole pipelines bear",
            "",
            *_table(plan, results, _devices),
            "",
            "![devices](devices.svg)",
        ]
    if plan.ablations:
        parts += [
            "",
            "## What each rule is worth",
            "",
            "Share of jobs in time at 95 % of the highest rate.",
            "",
        ]
        parts += _ablation(results)
    return "\n".join([*parts, ""])


def _latencies(found: Found, name: str) -> str | None:
    if name not in found.latencies:
        return None
    seen = found.latencies[name]
    return f"{seen.mean:.2f} / {seen.p50:.2f} / {seen.p99:.1f}"


def _loads(found: Found, name: str) -> str | None:
    if name not in found.traffic:
        return None
    loaded, held = found.traffic[name]
    return f"{loaded:.2f} / {held:.0f}"


def _summary(results: Results) -> list[str]:
    """The ratios that matter, computed."""
    pipelines = {p: _over(f.rates.get(OURS, 0.0), f.best_pipeline(f.rates)) for p, f in results.items()}
    papers = {p: _over(f.rates.get(OURS, 0.0), f.rates.get(PAPER, 0.0)) for p, f in results.items()}
    lines = [
        "| Tessera against | " + " | ".join(results) + " | over all |",
        "|---|" + "---|" * (len(results) + 1),
    ]
    lines.append(_row("best whole pipelines: rate", pipelines, f"{max(pipelines.values()):.2f} at best"))
    mean = prod(papers.values()) ** (1 / max(1, len(papers)))
    lines.append(_row("the paper's policy: rate", papers, f"{mean:.2f} geometric mean"))
    bursts = {
        p: _over(f.bursts.get(OURS, 0.0), f.best_pipeline(f.bursts)) for p, f in results.items() if f.bursts
    }
    if bursts:
        lines.append(_row("best whole pipelines: burst", bursts, f"{max(bursts.values()):.2f} at best"))
    fewer = {p: share for p, f in results.items() if (share := _fewer(f)) is not None}
    if fewer:
        lines.append(_row("best whole pipelines: devices", fewer, f"{min(fewer.values()):.2f} at best"))
    p99 = {
        p: _over(f.latencies[OURS].p99, f.latencies[PAPER].p99)
        for p, f in results.items()
        if OURS in f.latencies and PAPER in f.latencies
    }
    if p99:
        lines.append(_row("the paper's policy: p99 latency", p99, f"{max(p99.values()):.2f} at worst"))
    lines.append(
        _row("the bound: rate", {p: _over(f.rates.get(OURS, 0.0), f.bound) for p, f in results.items()}, "")
    )
    return lines


def _fewer(found: Found) -> float | None:
    others = [n for name in PIPELINES if (n := found.devices.get(name)) is not None]
    ours = found.devices.get(OURS)
    return ours / min(others) if others and ours is not None else None


def _over(value: float, other: float) -> float:
    return value / other if other else float("inf")


def _row(name: str, values: Mapping[Preset, float], last: str) -> str:
    return f"| {name} | " + " | ".join(f"{value:.2f}" for value in values.values()) + f" | {last} |"


def _table(
    plan: Plan,
    results: Results,
    value: Callable[[Found, str], object],
    *,
    names: Sequence[str] | None = None,
    extra: bool = False,
) -> list[str]:
    lines = ["| | " + " | ".join(results) + " |", "|---|" + "---|" * len(results)]
    for name in names or plan.policies:
        cells = [_cell(value(found, name)) for found in results.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    if extra:
        lines.append("| bound | " + " | ".join(_cell(found.bound) for found in results.values()) + " |")
    return lines


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _ablation(results: Results) -> list[str]:
    labels = list(next(iter(results.values())).ablation)
    lines = ["| | " + " | ".join(results) + " |", "|---|" + "---|" * len(results)]
    for label in labels:
        lines.append(
            f"| {label} | " + " | ".join(f"{f.ablation[label]:.3f}" for f in results.values()) + " |"
        )
    return lines
