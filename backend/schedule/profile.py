"""What things cost: measured while running, and before that as published for the most similar component.

The published figures (data/h800.json) were measured by the authors of LegoDiffusion (arXiv 2604.08123, DiFlow
at SOSP 2026) on an NVIDIA H800 and come with their artifact. They give the shape of a curve; its height is
corrected by how this machine compares on what was measured.
"""

import json
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib.resources import files
from math import ceil
from typing import Literal, TypeAlias

from backend.types import ComponentId, Seconds
from backend.values import frozen

Measure: TypeAlias = Literal["load", "step", "op", "size"]
Role: TypeAlias = Literal["denoiser", "text_encoder", "vae", "other"]  # other: ControlNets and the like
_GIB = float(1 << 30)
_FASTER, _SLOWER = 0.5, 0.1  # weight of a new value: what delayed one measurement says little of the next
_DELAYED = 2.0  # times what was expected: a pass that took longer counts as this, whatever held it up
_FADING = 0.02  # of what a larger pass took beyond its expected time goes with each report of a smaller one
_LOAD_RATE = (
    1.0 * _GIB
)  # bytes a second from disk until measured: its median over 48 GiB is 22.7 s, over 4 GiB 3.1
# One pass of n rows beside one of 1 row on a CPU, which has little to gain from more of them: measured on the
# reduced SD1.5 of the parity set, 116, 200, 341 and 656 ms (BENCHMARKS.md).
_CPU_ROWS = ((1, 1.0), (2, 1.72), (4, 2.94), (8, 5.66))
# LoRAs on a reduced SD1.5 (BENCHMARKS.md): beside the weights 6 to 7 % of a pass; a copy takes less than a
# tenth of a pass of 2 rows there, and more on a GPU, where passes are shorter against what memory gives.
BESIDE, MERGE_PASSES = 0.07, 1.0
HANDOVER = 0.002  # seconds that latents take to another device and back, each step; until measured
_GAIN = 0.95  # a shared pass must save a twentieth of the time of two


@frozen
class Published:
    """nbytes: of the weights; seconds: of one call by rows."""

    role: Role
    nbytes: float
    seconds: tuple[tuple[int, Seconds], ...]


@frozen
class Cost:
    """One measured figure, as it is stored. name: component or op; rows: 0 where they don't matter."""

    measure: Measure
    name: str
    rows: int
    value: float


@dataclass(slots=True)
class Profile:
    """measured: how much slower this machine is than the published one; None until a pass was timed.

    on_cpu: passes grow with their rows as on a CPU, not as published for a GPU.
    """

    measured: float | None = None
    on_cpu: bool = False
    _steps: dict[ComponentId, dict[int, Seconds]] = field(default_factory=dict)
    _loads: dict[ComponentId, Seconds] = field(default_factory=dict)
    _ops: dict[str, Seconds] = field(default_factory=dict)
    _sizes: dict[ComponentId, float] = field(default_factory=dict)
    _guesses: dict[ComponentId, float] = field(default_factory=dict)
    _memo: dict[tuple[ComponentId, int], Seconds] = field(default_factory=dict)
    changed: bool = False

    # -- what was measured -----------------------------------------------------------------------

    def observe_step(self, component: ComponentId, rows: int, seconds: Seconds) -> None:
        """One forward pass.

        Passes that were found not to pay aren't made again, so nothing would ever set their figure right.
        Hence one slow pass decides nothing, and the figure fades: in time such a pass is tried once more.
        """
        if seconds <= 0 or rows <= 0:
            return
        self._memo.clear()
        known, curve = self._steps.setdefault(component, {}), self._curve(component)
        expected = self._step(component, rows) if known else seconds
        seconds = min(seconds, _DELAYED * expected)
        known[rows] = _blend(expected, seconds)
        for more in known:
            beyond = known[more] - known[rows] * _at(curve, more) / _at(curve, rows)
            if more > rows and beyond > 0:
                known[more] -= _FADING * beyond
        self.measured = _blend(self.measured, seconds / _at(curve, rows))
        self.changed = True

    def observe_load(self, component: ComponentId, seconds: Seconds) -> None:
        if seconds > 0:
            self._loads[component] = _blend(self._loads.get(component), seconds)
            self.changed = True

    def observe_op(self, name: str, seconds: Seconds) -> None:
        """A whole op or a call. name: what it is, and of which component."""
        self._ops[name] = _blend(self._ops.get(name), max(0.0, seconds))
        self.changed = True

    def observe_size(self, component: ComponentId, nbytes: float) -> None:
        """As resident on a device."""
        if self._sizes.get(component) != nbytes:
            self._sizes[component] = nbytes
            self._memo.clear()
            self.changed = True

    def guess_size(self, component: ComponentId, nbytes: float) -> None:
        """The size of its files, until it was loaded once."""
        self._guesses.setdefault(component, nbytes)

    @property
    def scale(self) -> float:
        return 1.0 if self.measured is None else self.measured

    # -- what is asked ---------------------------------------------------------------------------

    def nbytes(self, component: ComponentId) -> float:
        return self._sizes.get(component, self._guesses.get(component, 0.0))

    def exact(self, component: ComponentId) -> bool:
        """Whether the size was measured. A guess may be too large: its file may hold other components too."""
        return component in self._sizes

    def load(self, component: ComponentId) -> Seconds:
        measured = self._loads.get(component)
        return self.nbytes(component) / _LOAD_RATE if measured is None else measured

    def step(self, component: ComponentId, rows: int) -> Seconds:
        """One forward pass of so many rows: measured, or what lies between or beyond, as published."""
        seconds = self._memo.get((component, rows))
        if seconds is None:
            seconds = self._memo[component, rows] = self._step(component, rows)
        return seconds

    def _step(self, component: ComponentId, rows: int) -> Seconds:
        known, published = self._steps.get(component), self._curve(component)
        if not known:
            return _at(published, rows) * self.scale
        if rows in known:
            return known[rows]
        below = max((r for r in known if r < rows), default=None)
        above = min((r for r in known if r > rows), default=None)
        if below is not None and above is not None:
            return _at(((below, known[below]), (above, known[above])), rows)
        nearest = below if below is not None else above
        assert nearest is not None
        return known[nearest] * _at(published, rows) / _at(published, nearest)

    def dealt(self, component: ComponentId, rows: int, parts: int, devices: int) -> Seconds:
        """One pass whose rows are dealt, in so many equal parts, to devices: its largest share."""
        if devices <= 1:
            return self.step(component, rows)
        return self.step(component, ceil(rows / parts) * ceil(parts / devices)) + HANDOVER

    def beside(self, component: ComponentId) -> float:
        """What LoRAs beside a denoiser's weights add to a pass, as a share of it."""
        return BESIDE

    def merging(self, component: ComponentId) -> Seconds:
        """To make a copy of a denoiser's weights with LoRAs in them."""
        return MERGE_PASSES * self.step(component, 2)

    def op(self, name: str, role: Role, component: ComponentId | None) -> Seconds:
        """A whole op; a call (no component) that never ran counts as free."""
        measured = self._ops.get(name)
        if measured is not None:
            return measured
        if component is None:
            return 0.0
        return _at(self._published(role, component).seconds, 1) * self.scale

    def pays(self, component: ComponentId, rows: int, more: int) -> bool:
        """Whether `more` rows beside `rows` take less time than in a pass of their own."""
        apart = self.step(component, rows) + self.step(component, more)
        return self.step(component, rows + more) <= _GAIN * apart

    def _curve(self, component: ComponentId) -> tuple[tuple[int, Seconds], ...]:
        """Seconds of a denoiser's or ControlNet's pass by rows, as far as known without measuring."""
        role: Role = "other" if component.startswith("controlnet@") else "denoiser"
        curve = self._published(role, component).seconds
        if not self.on_cpu:
            return curve
        alone = _at(curve, 1)
        return tuple((rows, alone * factor) for rows, factor in _CPU_ROWS)

    def _published(self, role: Role, component: ComponentId) -> Published:
        """The published component of that role with the nearest size."""
        return _nearest(role, self.nbytes(component))

    # -- as it is stored -------------------------------------------------------------------------

    def costs(self) -> Iterator[Cost]:
        if self.measured is not None:
            yield Cost("step", "", 0, self.measured)
        for component, by_rows in self._steps.items():
            yield from (Cost("step", component, rows, seconds) for rows, seconds in by_rows.items())
        yield from (Cost("load", component, 0, seconds) for component, seconds in self._loads.items())
        yield from (Cost("op", name, 0, seconds) for name, seconds in self._ops.items())
        yield from (Cost("size", component, 0, nbytes) for component, nbytes in self._sizes.items())

    def restore(self, costs: Iterable[Cost]) -> None:
        """Take up what a former run of the server measured."""
        self._memo.clear()
        for cost in costs:
            match cost.measure:
                case "step" if cost.rows:
                    self._steps.setdefault(ComponentId(cost.name), {})[cost.rows] = cost.value
                case "step":
                    self.measured = cost.value
                case "load":
                    self._loads[ComponentId(cost.name)] = cost.value
                case "op":
                    self._ops[cost.name] = cost.value
                case "size":
                    self._sizes[ComponentId(cost.name)] = cost.value


def _blend(old: float | None, new: float) -> float:
    """An exponential moving average that believes what is faster sooner."""
    if old is None:
        return new
    return old + (new - old) * (_FASTER if new < old else _SLOWER)


def _at(curve: tuple[tuple[int, Seconds], ...], rows: int) -> Seconds:
    """A curve at some rows: linear between and beyond its points, never below its first."""
    xs = [x for x, _ in curve]
    high = min(max(1, bisect_left(xs, rows)), len(curve) - 1)
    (x0, y0), (x1, y1) = curve[high - 1], curve[high]
    return max(y0 + (y1 - y0) * (rows - x0) / (x1 - x0), min(y0, y1) * min(1.0, rows / x0))


@cache
def published() -> tuple[Published, ...]:
    """The packaged figures."""
    text = files("backend.schedule").joinpath("data/h800.json").read_text()
    components: Mapping[str, Mapping[str, object]] = json.loads(text)["components"]
    return tuple(_parse(name, values) for name, values in components.items())


def _parse(name: str, values: Mapping[str, object]) -> Published:
    times, size = values["exec_ms"], values["weights_gib"]
    assert isinstance(times, dict)
    assert isinstance(size, float)
    seconds = tuple((int(rows), float(ms) / 1000) for rows, ms in times.items())
    return Published(_role(name), size * _GIB, seconds)


def _role(name: str) -> Role:
    if name.endswith((".unet", ".dit")):
        return "denoiser"
    if name.startswith(("t5", "clip")):
        return "text_encoder"
    return "vae" if "vae" in name else "other"


@lru_cache(1024)
def _nearest(role: Role, nbytes: float) -> Published:
    same = [p for p in published() if p.role == role] or list(published())
    return min(same, key=lambda p: (abs(p.nbytes - nbytes), p.nbytes))
