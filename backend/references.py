"""References: immutable descriptions of models, samplers and guiders. They load nothing.

A reference may hold `Lazy` values (results that do not exist yet); `ops.py` says what those are.
"""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, Self, TypeAlias

from backend.types import ComponentId, Conditioning, OpKey, Wire


@dataclass(frozen=True, slots=True)
class Ref:
    """One output of an op of the live graph, whether it has run or not.

    slot: which output; item: which element, where the output is a list.
    """

    key: OpKey
    slot: int = 0
    item: int = 0


@dataclass(frozen=True, slots=True)
class File:
    """Which bytes: a path and what tells us that the file was not exchanged."""

    path: str
    size: int
    mtime_ns: int
    inode: int


ComponentKind = Literal["denoiser", "text_encoder", "vae"]


@dataclass(frozen=True, slots=True)
class Weights:
    """One network's weights: the role it plays and the file (or files) that hold it."""

    kind: ComponentKind
    files: tuple[File, ...]

    @property
    def id(self) -> ComponentId:
        """Equal for equal weights: what residency, batching and content keys go by."""
        marks = "|".join(f"{f.path}:{f.size}:{f.mtime_ns}:{f.inode}" for f in self.files)
        return ComponentId(f"{self.kind}@{marks}")


@dataclass(frozen=True, slots=True)
class LoraUse:
    file: File
    strength: float


@dataclass(frozen=True, slots=True)
class Model:
    wire: ClassVar[str] = "MODEL"
    weights: Weights
    loras: tuple[LoraUse, ...] = ()

    def with_lora(self, file: File, strength: float) -> Self:
        return self if strength == 0 else replace(self, loras=(*self.loras, LoraUse(file, strength)))


@dataclass(frozen=True, slots=True)
class Clip:
    """Text encoders. family: the `type` of CLIPLoader; stop_at: CLIPSetLastLayer's negative layer index."""

    wire: ClassVar[str] = "CLIP"
    weights: Weights
    family: str = "stable_diffusion"
    stop_at: int | None = None
    loras: tuple[LoraUse, ...] = ()

    def with_lora(self, file: File, strength: float) -> Self:
        return self if strength == 0 else replace(self, loras=(*self.loras, LoraUse(file, strength)))


@dataclass(frozen=True, slots=True)
class Vae:
    wire: ClassVar[str] = "VAE"
    weights: Weights


@dataclass(frozen=True, slots=True)
class Noise:
    """Initial noise. A disabled noise is all zeros; its seed still drives the noise of SDE samplers."""

    wire: ClassVar[str] = "NOISE"
    seed: int
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class Sampler:
    """A sampler by ComfyUI's name, with the options that its own node offers (eta, s_noise ...)."""

    wire: ClassVar[str] = "SAMPLER"
    name: str
    options: tuple[tuple[str, float | int | str | bool], ...] = ()


@dataclass(frozen=True, slots=True)
class Schedule:
    """Sigmas by name, as KSampler and KSamplerAdvanced ask for them.

    start, end: first and last step that run (None: all). force_full_denoise: a run that ends early ends at
    sigma 0 all the same.
    """

    scheduler: str
    steps: int
    denoise: float = 1.0
    start: int | None = None
    end: int | None = None
    force_full_denoise: bool = True


@dataclass(frozen=True, slots=True)
class BasicGuider:
    """The model's prediction under one conditioning, unsteered."""

    wire: ClassVar[str] = "GUIDER"
    model: Model
    positive: Conditioning | Ref


@dataclass(frozen=True, slots=True)
class CfgGuider:
    """Classifier-free guidance: negative + cfg * (positive - negative); one call only where cfg is 1."""

    wire: ClassVar[str] = "GUIDER"
    model: Model
    positive: Conditioning | Ref
    negative: Conditioning | Ref
    cfg: float


Guider: TypeAlias = Annotated[BasicGuider | CfgGuider, Wire("GUIDER")]
REFERENCES = (Model, Clip, Vae, Noise, Sampler, Schedule, BasicGuider, CfgGuider)
