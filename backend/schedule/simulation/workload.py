"""Traffic to simulate: jobs drawn with a seed from the statistics of two published traces
(data/workload.json).
"""

import random
from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any, Literal, TypeAlias

from backend.schedule.simulation.catalogue import FAMILIES, LORA_TAX, Base, Catalogue, read
from backend.types import ComponentId, Seconds
from backend.values import frozen

Preset: TypeAlias = Literal["calm", "busy_hour", "burst", "long_tail", "adapter_heavy", "video_mix"]
PRESETS: tuple[Preset, ...] = ("calm", "busy_hour", "burst", "long_tail", "adapter_heavy", "video_mix")
Mix: TypeAlias = Mapping[str, Mapping[str, float]]  # tenant -> family -> share of its requests
MIX: Mix = {
    "a": {"sdxl": 0.6, "sd15": 0.4},
    "b": {"flux-dev": 0.5, "flux-schnell": 0.5},
    "c": {"sd35l": 0.5, "sd3m": 0.5},
}
TAIL = {
    "sdxl": 9,
    "sd15": 4,
    "flux-dev": 4,
    "sd35l": 1,
    "sd3m": 1,
    "flux-schnell": 1,
}  # of 20 community models
HOURS = (2, 1, 1, 1, 1, 1, 2, 3, 4, 5, 6, 7, 7, 7, 7, 8, 8, 9, 10, 12, 14, 12, 8, 4)  # a day's shape


@frozen
class Job:
    """images: of one latent batch. solo: seconds alone, on an idle device that holds its base, adapters read
    from disk. due: when its service level says it must be over.
    """

    id: int
    arrived: Seconds
    user: str
    base: Base
    images: int
    passes: int
    controlnets: tuple[ComponentId, ...] = ()
    loras: tuple[ComponentId, ...] = ()
    work: Seconds = 0.0
    solo: Seconds = 0.0
    due: Seconds = 0.0

    @property
    def rows(self) -> int:
        return self.images * (2 if self.base.family.guided else 1)

    @property
    def adapters(self) -> tuple[ComponentId, ...]:
        return (*self.controlnets, *self.loras)


@frozen
class Traffic:
    """rate: jobs a second in the mean. slo: a job is in time within so many times its solo latency. step:
    the factor on the rate between `step_from` and `step_to`; day: the rate follows the hours of a day.
    """

    preset: Preset = "busy_hour"
    rate: float = 1.0
    seconds: Seconds = 1800.0
    seed: int = 0
    slo: float = 2.0
    step: float = 1.0
    step_from: Seconds = 0.0
    step_to: Seconds = 0.0
    day: bool = False
    mix: Mix | None = None


def jobs(traffic: Traffic, catalogue: Catalogue) -> list[Job]:
    """All jobs, by arrival."""
    chance = random.Random(f"{traffic.preset} {traffic.seed}")
    draw = _Draw(traffic, chance)
    return [
        _priced(draw.job(number, at), catalogue, traffic.slo)
        for number, at in enumerate(_arrivals(traffic, chance))
    ]


def _arrivals(traffic: Traffic, chance: random.Random) -> Iterator[Seconds]:
    """Gaps are drawn in operational time: where the rate is f times the mean, time passes f times as fast."""
    settings = _preset(traffic.preset)
    cv = float(settings.get("cv", 1.0)) if settings["arrivals"] == "gamma" else 1.0  # type: ignore[arg-type]
    shape = 1 / cv**2
    at = 0.0
    while True:
        left = chance.gammavariate(shape, 1 / (shape * traffic.rate))
        while True:  # through the pieces of constant rate
            factor, until = _factor(traffic, at)
            if at + left / factor <= until:
                at += left / factor
                break
            left -= (until - at) * factor
            at = until
        if at >= traffic.seconds:
            return
        yield at


def _factor(traffic: Traffic, at: Seconds) -> tuple[float, Seconds]:
    """The rate now, as a multiple of the mean, and until when it holds."""
    if traffic.day:
        hour = int(at // 3600)
        return HOURS[hour % 24] * 24 / sum(HOURS), (hour + 1) * 3600.0
    if at < traffic.step_from:
        return 1.0, traffic.step_from
    if at < traffic.step_to:
        return traffic.step, traffic.step_to
    return 1.0, float("inf")


class _Draw:
    def __init__(self, traffic: Traffic, chance: random.Random) -> None:
        self._chance = chance
        preset, popularity = _preset(traffic.preset), _table("popularity")
        request = _table("request")
        self._images = _Choice({int(k): v for k, v in request["images"].items()})
        self._passes = _Choice({int(k): v for k, v in request["steps"].items()})
        self._tail = preset.get("bases") == "popularity"
        self._katz = _table("katz") if preset.get("adapters") == "katz" else None
        self._long = preset["long_jobs"]["share"] if "long_jobs" in preset else 0.0  # type: ignore[index]
        tenants = preset.get("tenants") or _preset("calm")["tenants"]
        self._tenants = _Choice(tenants)  # type: ignore[arg-type]
        self._mix = {t: _Choice(m) for t, m in (traffic.mix or MIX).items()}
        self._bases = _Choice(dict(enumerate(_shares(popularity["bases"], (1, 5, 10, 20)))))
        self._users = _Choice(dict(enumerate(_users(popularity["users"]))))
        self._loras = _Choice(dict(enumerate(_shares(popularity["loras"], (1, 10, 50)))))
        self._per_request = _Choice({int(k): v for k, v in popularity["loras"]["per_request"].items()})

    def job(self, number: int, at: Seconds) -> Job:
        chance = self._chance
        tenant = self._tenants.draw(chance)
        user, base = tenant, Base(FAMILIES[self._mix[tenant].draw(chance)])
        if self._tail:
            user, base = f"user{self._users.draw(chance)}", community(self._bases.draw(chance))
        long = self._long and chance.random() < self._long
        if long:
            base = Base(FAMILIES["video"])
        passes = base.family.passes or self._passes.draw(chance)
        images = 1 if long else self._images.draw(chance)
        controlnets, loras = self._adapters(base) if not long else ((), ())
        return Job(number, at, user, base, images, passes, controlnets, loras)

    def _adapters(self, base: Base) -> tuple[tuple[ComponentId, ...], tuple[ComponentId, ...]]:
        chance, katz = self._chance, self._katz
        if katz is None:
            loras = {self._loras.draw(chance) for _ in range(self._per_request.draw(chance))}
            return (), tuple(ComponentId(f"lora.{base.family.name}#{n}") for n in sorted(loras))
        count = (chance.random() < katz["requests_with_controlnet"]) + (
            chance.random() < katz["requests_with_2_controlnets"]
        )
        nets = {self._controlnet(katz) for _ in range(count)}
        few = int(katz["loras"])
        lora = (
            {int(few ** chance.random())} if chance.random() < katz["requests_with_lora"] else set()
        )  # log-uniform
        return (
            tuple(ComponentId(f"{base.family.controlnet}#{n}") for n in sorted(nets)),
            tuple(ComponentId(f"lora.{base.family.name}#{n}") for n in sorted(lora)),
        )

    def _controlnet(self, katz: Mapping[str, float]) -> int:
        hot = int(katz["controlnets"]) // 10
        if self._chance.random() < katz["top10pct_controlnets_share"]:
            return self._chance.randrange(hot)
        return self._chance.randrange(hot, int(katz["controlnets"]))


class _Choice:
    """A weighted choice of labels."""

    def __init__(self, weights: Mapping[Any, float]) -> None:
        self._labels = list(weights)
        self._sums = list(accumulate(weights.values()))

    def draw(self, chance: random.Random) -> Any:
        return self._labels[bisect(self._sums, chance.random() * self._sums[-1])]


def community(rank: int) -> Base:
    """The model of a popularity rank: families are dealt over the ranks evenly."""
    order = [name for name, count in TAIL.items() for _ in range(count)]
    return Base(FAMILIES[order[rank * 7 % len(order)]], rank)


def _shares(table: Mapping[str, float], ranks: Sequence[int]) -> list[float]:
    """Popularity by rank, so that the first 1, 5, 10 ... have the published shares; even between these."""
    shares, before, sum_before = list[float](), 0, 0.0
    for rank in (*ranks, int(table["count"])):
        total = table.get(f"top{rank}", 1.0)
        shares += [(total - sum_before) / (rank - before)] * (rank - before)
        before, sum_before = rank, total
    return shares


def _users(table: Mapping[str, float]) -> list[float]:
    ranks = {1: table["top1"], 5: table["top5"], int(table["count"]) // 20: table["top5pct"]}
    named = {"count": table["count"], **{f"top{rank}": share for rank, share in ranks.items()}}
    return _shares(named, sorted(ranks))


def _priced(job: Job, catalogue: Catalogue, slo: float) -> Job:
    alone = work(job, catalogue)
    fetched = max((catalogue.part(a).disk + catalogue.part(a).h2d for a in job.adapters), default=0.0)
    solo = alone + fetched
    return replace(job, work=alone, solo=solo, due=job.arrived + slo * solo)


def work(job: Job, catalogue: Catalogue) -> Seconds:
    """All that a job computes, one thing after the other on one device."""
    passes = job.passes * pass_seconds(job, catalogue, taxed=False)
    return passes + sum(s for _, s in encodes(job, catalogue)) + decode(job, catalogue)


def encodes(job: Job, catalogue: Catalogue) -> list[tuple[ComponentId, Seconds]]:
    """Each text encoder and what it takes: the prompt, and a negative one where guidance has one."""
    rows = 2 if job.base.family.guided else 1
    names = [ComponentId(name) for name in job.base.family.encoders]
    return [(name, catalogue.seconds(name, rows)) for name in names]


def decode(job: Job, catalogue: Catalogue) -> Seconds:
    return catalogue.seconds(ComponentId(job.base.family.vae), job.images)


def pass_seconds(job: Job, catalogue: Catalogue, *, taxed: bool, rows: int = 0) -> Seconds:
    """One pass of the denoiser and its ControlNets. taxed: with LoRAs beside the weights, not in them."""
    rows = rows or job.rows
    seconds = catalogue.seconds(job.base.denoiser, rows)
    seconds += sum(catalogue.seconds(net, rows) for net in job.controlnets)
    return seconds * (LORA_TAX if taxed and job.loras else 1.0)


def _preset(name: str) -> Mapping[str, object]:
    return _table("presets")[name]  # type: ignore[no-any-return]


def _table(name: str) -> Any:
    return read("workload")[name]
