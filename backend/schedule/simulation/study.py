"""The study that `tessera simulate` runs: every figure for every preset, seed and policy, and what each rule
is worth.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace

from backend.schedule.rules import Rules
from backend.schedule.simulate import Hardware
from backend.schedule.simulation import bounds, searches
from backend.schedule.simulation.figures import Latency, attainment, fairness, latency, slowdown, work_in_time
from backend.schedule.simulation.lineup import ALL, OURS, PAPER, PIPELINES, POLICIES, patient, simulate
from backend.schedule.simulation.workload import PRESETS, Preset, Traffic
from backend.values import frozen

_LATENCY_AT = 0.5  # of the even rate, the rate at which latencies are compared
_CROWD_AT = 1.6  # of the even rate, where everyone waits
_BURST_AT = 0.12  # of the even rate, the rate before and after a burst
_MOST_DEVICES = 32
Tell = Callable[[str], None]


@frozen
class Plan:
    """What to run. seconds: of traffic in each run; minutes: how long a burst lasts. looser: service levels
    at which rates are found too.
    """

    presets: tuple[Preset, ...] = PRESETS
    policies: tuple[str, ...] = POLICIES
    seeds: tuple[int, ...] = (0,)
    slo: float = 2.0
    looser: tuple[float, ...] = ()
    seconds: float = 600.0
    minutes: float = 2.0
    hardware: Hardware = field(default_factory=Hardware)
    ablations: bool = True
    searches: bool = True


@dataclass(slots=True)
class Limits:
    """What no policy can exceed, and `even`: the rate at which all work, as dear as alone, fills all devices.
    devices: for the rate that the best whole pipelines bear.
    """

    even: float = 0.0
    rate: float = 0.0
    burst: float = 0.0
    devices: int = 0


@dataclass(slots=True)
class Found:
    """Figures of one preset and seed, by policy. rates, bursts: the most that is borne, rates also by looser
    service levels; devices: the fewest; work: the share in time at the highest rate. traffic: TiB loaded, and
    GiB held at most, at the rate of the latencies. ablation: without each rule, attainment at
    nearly the highest rate, and `slowdown` at the rate of the latencies.
    """

    limits: Limits = field(default_factory=Limits)
    rates: dict[str, float] = field(default_factory=dict)
    looser: dict[float, dict[str, float]] = field(default_factory=dict)
    work: dict[str, float] = field(default_factory=dict)
    bursts: dict[str, float] = field(default_factory=dict)
    devices: dict[str, int | None] = field(default_factory=dict)
    latencies: dict[str, Latency] = field(default_factory=dict)
    traffic: dict[str, tuple[float, float]] = field(default_factory=dict)
    fairness: dict[str, float | None] = field(default_factory=dict)
    ablation: dict[str, tuple[float, float]] = field(default_factory=dict)

    def best_pipeline(self, values: Mapping[str, float]) -> float:
        return max((values.get(name, 0.0) for name in PIPELINES), default=0.0)


def pieces(plan: Plan) -> list[Plan]:
    """The plan, preset by preset and seed by seed: what may run side by side."""
    return [replace(plan, presets=(preset,), seeds=(seed,)) for preset in plan.presets for seed in plan.seeds]


def work_of(plan: Plan) -> int:
    """How many times `study` calls `tell`."""
    each = len(plan.policies) * (2 + len(plan.looser) + 2 * plan.searches)
    each += plan.ablations * len(_leaves())
    return len(plan.presets) * len(plan.seeds) * each


def study(plan: Plan, tell: Tell) -> dict[Preset, list[Found]]:
    """Run it all; one of each seed. tell: is called before each piece of work, with what it is."""
    return {preset: [_one(plan, preset, seed, tell) for seed in plan.seeds] for preset in plan.presets}


def _one(plan: Plan, preset: Preset, seed: int, tell: Tell) -> Found:
    base = Traffic(preset, 1.0, plan.seconds, seed, plan.slo)
    drawn, devices = bounds.drawn_for_bounds(base), plan.hardware.devices
    even = bounds.even_rate(drawn, devices)
    found = Found(Limits(even, bounds.highest_rate(drawn, devices)))
    for name in plan.policies:
        tell(f"{preset}, seed {seed}: rate, {name}")
        _rate(plan, base, name, found)
        for slo in plan.looser:
            tell(f"{preset}, seed {seed}: rate at {slo:g} times the latency alone, {name}")
            start = found.rates[name] or even / 4
            looser = searches.highest_rate(name, replace(base, slo=slo), plan.hardware, start)
            found.looser.setdefault(slo, {})[name] = looser
        tell(f"{preset}, seed {seed}: latency, {name}")
        _latency(plan, base, name, found)
    if plan.searches:
        found.limits.burst = bounds.highest_burst(drawn, devices, _BURST_AT * even, 60 * plan.minutes)
        _search(plan, base, found, tell)
    if plan.ablations:
        at = replace(base, rate=0.95 * found.rates[OURS])
        calm = patient(replace(base, rate=_LATENCY_AT * even))
        for label, rules in _leaves():
            tell(f"{preset}, seed {seed}: {label}")
            outcomes = (simulate(OURS, traffic, plan.hardware, rules) for traffic in (at, calm))
            found.ablation[label] = attainment(next(outcomes)), slowdown(next(outcomes))
    return found


def _rate(plan: Plan, base: Traffic, name: str, found: Found) -> None:
    rate = searches.highest_rate(name, base, plan.hardware, found.limits.even / 2)
    found.rates[name] = rate
    found.work[name] = work_in_time(simulate(name, replace(base, rate=max(rate, 0.01)), plan.hardware))


def _latency(plan: Plan, base: Traffic, name: str, found: Found) -> None:
    """Latencies at half the even rate, and fairness where everyone waits."""
    even = found.limits.even
    outcome = simulate(name, patient(replace(base, rate=_LATENCY_AT * even)), plan.hardware)
    found.latencies[name] = latency(outcome)
    found.traffic[name] = (outcome.loaded / 2**40, outcome.peak / 2**30)
    if name in (OURS, PAPER):
        crowd = replace(base, rate=_CROWD_AT * even, seconds=min(300.0, plan.seconds))
        found.fairness[name] = fairness(simulate(name, patient(crowd), plan.hardware))


def _search(plan: Plan, base: Traffic, found: Found, tell: Tell) -> None:
    """Bursts over a low rate; and devices for the rate that the best whole pipelines bear on all of them."""
    rate = found.best_pipeline(found.rates) or found.limits.even / 4
    found.limits.devices = bounds.fewest_devices(bounds.drawn_for_bounds(base), rate)
    for name in plan.policies:
        tell(f"{base.preset}, seed {base.seed}: burst, {name}")
        low = replace(base, rate=_BURST_AT * found.limits.even)
        found.bursts[name] = searches.highest_burst(name, low, plan.hardware, plan.minutes)
        tell(f"{base.preset}, seed {base.seed}: devices, {name}")
        at = replace(base, rate=rate)
        found.devices[name] = searches.fewest_devices(name, at, plan.hardware, _MOST_DEVICES)


def _leaves() -> list[tuple[str, Rules]]:
    """Each rule left out, and none."""
    out: list[tuple[str, Rules]] = [("all rules", ALL)]
    for rule in fields(ALL):
        if isinstance(getattr(ALL, rule.name), bool) and getattr(ALL, rule.name):
            out.append((f"without {rule.name}", replace(ALL, **{rule.name: False})))
    return out
