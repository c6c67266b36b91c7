"""The study that `tessera simulate` runs: every figure for every preset and policy, and what each rule is
worth.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace

from backend.schedule.rules import Rules
from backend.schedule.simulate import Hardware
from backend.schedule.simulation import figures
from backend.schedule.simulation.figures import Latency
from backend.schedule.simulation.lineup import ALL, OURS, PAPER, PIPELINES, POLICIES, patient, simulate
from backend.schedule.simulation.workload import PRESETS, Preset, Traffic

_LATENCY_AT = 0.5  # of the bound, the rate at which latencies are compared
_CROWD_AT = 1.6  # of the bound, where everyone waits
_BURST_AT = 0.12  # of the bound, the rate before and after a burst


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run. seconds: of traffic in each run; minutes: how long a burst lasts."""

    presets: tuple[Preset, ...] = PRESETS
    policies: tuple[str, ...] = POLICIES
    slo: float = 2.0
    seconds: float = 600.0
    minutes: float = 2.0
    seed: int = 0
    hardware: Hardware = field(default_factory=Hardware)
    ablations: bool = True
    searches: bool = True


@dataclass(slots=True)
class Found:
    """Figures of one preset. rates, bursts: the most that is borne; devices: the fewest; by policy.
    traffic: TiB loaded, and GiB held at most, at the rate of the latencies. ablation: attainment without
    each rule.
    """

    bound: float = 0.0
    rates: dict[str, float] = field(default_factory=dict)
    looser: dict[float, dict[str, float]] = field(default_factory=dict)
    bursts: dict[str, float] = field(default_factory=dict)
    devices: dict[str, int | None] = field(default_factory=dict)
    latencies: dict[str, Latency] = field(default_factory=dict)
    traffic: dict[str, tuple[float, float]] = field(default_factory=dict)
    fairness: dict[str, float | None] = field(default_factory=dict)
    ablation: dict[str, float] = field(default_factory=dict)

    def best_pipeline(self, values: Mapping[str, float]) -> float:
        return max((values.get(name, 0.0) for name in PIPELINES), default=0.0)


Tell = Callable[[str], None]


def work_of(plan: Plan) -> int:
    """How many times `study` calls `tell`."""
    each = len(plan.policies) * (2 + 2 * plan.searches) + plan.ablations * len(_leaves())
    return len(plan.presets) * each


def study(plan: Plan, tell: Tell) -> dict[Preset, Found]:
    """Run it all. tell: is called before each piece of work, with what it is."""
    return {preset: _preset(plan, preset, tell) for preset in plan.presets}


def _preset(plan: Plan, preset: Preset, tell: Tell) -> Found:
    base = Traffic(preset, 1.0, plan.seconds, plan.seed, plan.slo)
    found = Found(bound=figures.bound(base, plan.hardware))
    for name in plan.policies:
        tell(f"{preset}: rate, {name}")
        found.rates[name] = figures.highest_rate(name, base, plan.hardware, found.bound / 2)
        tell(f"{preset}: latency, {name}")
        _latency(plan, replace(base, rate=_LATENCY_AT * found.bound), name, found)
        crowd = replace(base, rate=_CROWD_AT * found.bound, seconds=min(300.0, plan.seconds))
        if name in (OURS, PAPER):
            found.fairness[name] = figures.crowded_fairness(name, crowd, plan.hardware)
    if plan.searches:
        _search(plan, base, found, tell)
    if plan.ablations:
        at = replace(base, rate=0.95 * found.rates[OURS])
        for label, rules in _leaves():
            tell(f"{preset}: {label}")
            found.ablation[label] = figures.attainment(simulate(OURS, at, plan.hardware, rules))
    return found


def _latency(plan: Plan, traffic: Traffic, name: str, found: Found) -> None:
    outcome = simulate(name, patient(traffic), plan.hardware)
    found.latencies[name] = figures.latency(outcome)
    found.traffic[name] = (outcome.loaded / 2**40, outcome.peak / 2**30)


def _search(plan: Plan, base: Traffic, found: Found, tell: Tell) -> None:
    """Bursts over a low rate; and devices for the rate that the best whole pipelines bear on all of them."""
    rate = found.best_pipeline(found.rates) or found.bound / 4
    for name in plan.policies:
        tell(f"{base.preset}: burst, {name}")
        low = replace(base, rate=_BURST_AT * found.bound)
        found.bursts[name] = figures.highest_burst(name, low, plan.hardware, plan.minutes)
        tell(f"{base.preset}: devices, {name}")
        found.devices[name] = figures.fewest_devices(name, replace(base, rate=rate), plan.hardware, 32)


def _leaves() -> list[tuple[str, Rules]]:
    """Each rule left out, and none."""
    out: list[tuple[str, Rules]] = [("all rules", ALL)]
    for rule in fields(ALL):
        if isinstance(getattr(ALL, rule.name), bool) and getattr(ALL, rule.name):
            out.append((f"without {rule.name}", replace(ALL, **{rule.name: False})))
    return out
