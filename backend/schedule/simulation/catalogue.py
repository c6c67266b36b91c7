"""What the simulated models cost: the published figures (data/h800.json), and which of them make a family.

A base is one community model of a family: its denoiser is its own, text encoders and VAE are the family's, as
content addressing finds them on real disks. Adapters (ControlNets, LoRAs) belong to a family.
"""

import json
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import TypeAlias

from backend.types import ComponentId, Seconds
from backend.values import frozen

GIB = float(1 << 30)
Curve: TypeAlias = tuple[tuple[int, Seconds], ...]
_DISK = 1.0 * GIB  # bytes a second: 22 GiB in 22 s, 4.9 GiB in 4.9 s; published quartiles are 3.1, 22.7
_LORA_BYTES = 341 * float(1 << 20)
_VIDEO_PASSES = 50
LORA_TAX = 1.08  # a pass with low-rank side paths instead of merged weights
MERGE = 0.35  # seconds to merge LoRAs into a pipeline's weights, or to take them out again


@frozen
class Part:
    """A component: bytes of weights, seconds from host to device, from disk to host, of a call by rows."""

    id: ComponentId
    nbytes: float
    h2d: Seconds
    disk: Seconds
    curve: Curve


@frozen
class Family:
    """guided: guidance doubles the rows. passes: where not the request says how many."""

    name: str
    denoiser: str
    encoders: tuple[str, ...]
    vae: str
    controlnet: str
    guided: bool
    passes: int | None = None


FAMILIES = {
    family.name: family
    for family in (
        Family("sd15", "sd15.unet", ("clip_l.sd15",), "sd15.vae_decode", "sd15.controlnet", True),
        Family("sdxl", "sdxl.unet", ("clip_l", "clip_g.sdxl"), "sdxl.vae_decode", "sdxl.controlnet", True),
        Family(
            "sd3m",
            "sd3m.dit",
            ("clip_l", "clip_g.sd3", "t5xxl.sd3"),
            "sd3.vae_decode",
            "sd3.controlnet",
            True,
        ),
        Family(
            "sd35l",
            "sd35l.dit",
            ("clip_l", "clip_g.sd3", "t5xxl.sd3"),
            "sd35l.vae_decode",
            "sd35l.controlnet",
            True,
        ),
        Family(
            "flux-dev", "flux-dev.dit", ("clip_l", "t5xxl.flux"), "flux.vae_decode", "flux.controlnet", False
        ),
        Family(
            "flux-schnell",
            "flux-schnell.dit",
            ("clip_l", "t5xxl.flux"),
            "flux.vae_decode",
            "flux.controlnet",
            False,
            4,
        ),
        Family("video", "video.dit", ("t5xxl.flux",), "flux.vae_decode", "flux.controlnet", True, 50),
    )
}


@frozen
class Base:
    """number: which of the family's models."""

    family: Family
    number: int = 0

    @property
    def denoiser(self) -> ComponentId:
        return ComponentId(f"{self.family.denoiser}#{self.number}")

    @property
    def parts(self) -> tuple[ComponentId, ...]:
        """The denoiser, the text encoders, the VAE."""
        shared = (*self.family.encoders, self.family.vae)
        return (self.denoiser, *(ComponentId(name) for name in shared))


@cache
def read(name: str) -> Mapping[str, object]:
    """A packaged file of published figures."""
    text = files("backend.schedule").joinpath(f"data/{name}.json").read_text(encoding="utf-8")
    value: Mapping[str, object] = json.loads(text)
    return value


@dataclass(slots=True)
class Catalogue:
    """Looks costs up, by rows interpolated between the published and extended beyond them."""

    video_seconds: Seconds = 300.0
    _parts: dict[ComponentId, Part] = field(default_factory=dict)
    _pipelines: dict[ComponentId, tuple[ComponentId, ...]] = field(default_factory=dict)
    _times: dict[tuple[ComponentId, int], Seconds] = field(default_factory=dict)

    def part(self, id: ComponentId) -> Part:
        try:
            return self._parts[id]
        except KeyError:
            part = self._parts[id] = self._make(id)
            return part

    def seconds(self, id: ComponentId, rows: int) -> Seconds:
        """One call."""
        key = (id, rows)
        found = self._times.get(key)
        if found is None:
            found = self._times[key] = _at(self.part(id).curve, rows)
        return found

    def nbytes(self, id: ComponentId) -> float:
        try:
            return self._parts[id].nbytes
        except KeyError:
            return self.part(id).nbytes

    def files(self, id: ComponentId) -> tuple[ComponentId, ...]:
        """What host memory and disk know it by: a pipeline is several files."""
        return self._pipelines.get(id, (id,))

    def add(self, part: Part) -> None:
        """One that was measured instead of published."""
        self._parts[part.id] = part

    def pipeline(self, base: "Base") -> ComponentId:
        """All parts of a base as one component that is loaded and dropped as a whole."""
        id = ComponentId(f"pipeline {base.denoiser}")
        if id not in self._pipelines:
            self._pipelines[id] = base.parts
            parts = [self.part(part) for part in base.parts]
            nbytes, h2d, disk = (
                sum(p.nbytes for p in parts),
                sum(p.h2d for p in parts),
                sum(p.disk for p in parts),
            )
            self._parts[id] = Part(id, nbytes, h2d, disk, parts[0].curve)
        return id

    def _make(self, id: ComponentId) -> Part:
        kind = id.split("#")[0]
        if kind.startswith("lora"):
            seconds = _LORA_BYTES / (7.5 * GIB)
            return Part(id, _LORA_BYTES, seconds, _cold("lora"), ((1, 0.0), (2, 0.0)))
        components = read("h800")["components"]
        assert isinstance(components, dict)
        values = components["flux-dev.dit" if kind == "video.dit" else kind]
        nbytes = values["weights_gib"] * GIB
        curve = tuple((int(rows), ms / 1000) for rows, ms in values["exec_ms"].items())
        if kind == "video.dit":
            row = self.video_seconds / _VIDEO_PASSES / 2
            curve = ((1, row), (2, 2 * row))
        disk = _cold("controlnet") if "controlnet" in kind else nbytes / _DISK
        return Part(id, nbytes, values["h2d_s"], disk, curve)


def _cold(kind: str) -> Seconds:
    table = read("workload")["cold_load_s"]
    assert isinstance(table, dict)
    return float(table[kind]["p50"])


def _at(curve: Curve, rows: int) -> Seconds:
    xs = [x for x, _ in curve]
    if rows in xs:
        return dict(curve)[rows]
    high = min(max(1, bisect_left(xs, rows)), len(curve) - 1)
    (x0, y0), (x1, y1) = curve[high - 1], curve[high]
    return y0 + (y1 - y0) * (rows - x0) / (x1 - x0)
