"""References: immutable descriptions of models, samplers and guiders. They load nothing.

A reference may hold `Lazy` values (results that do not exist yet); `ops.py` says what those are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Annotated, ClassVar, Literal, Self, TypeAlias

from backend.latent_operations import Sharpen, Tonemap
from backend.patches import ModelPatch
from backend.types import ComponentId, Conditioning, Image, Mask, OpKey, Wire


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


ComponentKind = Literal[
    "denoiser",
    "text_encoder",
    "vae",
    "lora",
    "controlnet",
    "upscaler",
    "clip_vision",
    "style_model",
    "model_patch",
]


@dataclass(frozen=True, slots=True)
class Component:
    """One component in a file. digest: of its tensors' canonical names, dtypes, shapes and bytes.

    contained: the file is a container, and the component is the part of it under a prefix of its own; part:
    which of several of its kind (a text encoder's name: clip_l, clip_g, t5xxl ...).
    """

    kind: ComponentKind
    digest: str
    nbytes: int
    contained: bool = False
    part: str = ""


@dataclass(frozen=True, slots=True)
class Contents:
    """What a model file holds.

    digest, nbytes: of all its tensors; components: one for each role
    that some of its tensors are meant for; encoding: what a checkpoint's text encoders make together ("sd15",
    "sdxl" ...: `models/text_places.py`).
    """

    digest: str
    nbytes: int
    components: tuple[Component, ...] = ()
    encoding: str = ""

    def role(self, kind: ComponentKind) -> Component:
        """The file in this role: all of its tensors where none are marked out for it."""
        return self.roles(kind)[0]

    def roles(self, kind: ComponentKind) -> tuple[Component, ...]:
        """Every component that is meant for a role, of which text encoders may be several."""
        meant = tuple(component for component in self.components if component.kind == kind)
        return meant or (Component(kind, self.digest, self.nbytes),)


@dataclass(frozen=True, slots=True)
class Weights:
    """One network's weights: the role it plays, what they are, and where they can be read.

    digest: equal for equal tensors, in whatever file they are. files: one place of several, perhaps; part:
    which of the files' components of that kind ("": the only one); nbytes: of its tensors there, 0 if
    unknown; blend: how they are made of others, where no file holds them: `files` then holds the tensors they
    begin with, and the digest is the recipe's; narrow: the number format that they are cast to (UNETLoader's
    name of it), which the digest then says too. These are no part of what the weights are.
    precision: what they are computed in (fp32, fp16, bf16), "" for what suits the device.
    """

    unkeyed: ClassVar[tuple[str, ...]] = ("files", "part", "nbytes", "blend", "narrow")
    kind: ComponentKind
    digest: str
    files: tuple[File, ...] = field(compare=False)
    part: str = field(default="", compare=False)
    nbytes: int = field(default=0, compare=False)
    blend: "Blend | None" = field(default=None, compare=False)
    narrow: str = field(default="", compare=False)
    precision: str = ""

    def narrowed(self, format: str) -> Self:
        """The same, cast to a number format: other weights, strictly."""
        return replace(self, digest=f"{self.digest}+{format}", narrow=format)

    @property
    def id(self) -> ComponentId:
        """Equal for equal weights: what residency, batching and content keys go by."""
        id = f"{self.kind}@{self.digest}"
        return ComponentId(f"{id}:{self.precision}" if self.precision else id)


@dataclass(frozen=True, slots=True)
class LoraUse:
    """A LoRA (weights of that kind, from one file) at a strength; any number, negative too."""

    weights: Weights
    strength: float

    @property
    def file(self) -> File:
        """Where the LoRA can be read."""
        return self.weights.files[0]


@dataclass(frozen=True, slots=True)
class WeightScale:
    """Layers times factors. factors: a pattern of the layers' names in diffusers' or transformers' form, and
    the factor.
    """

    factors: tuple[tuple[str, float], ...]

    @property
    def weights(self) -> Weights:
        """What it is called by, as a LoRA is by its own."""
        return Weights("lora", f"scaled {self.factors}", ())

    @property
    def strength(self) -> float:
        return 1.0


# What is done to weights, in order: each acts on what the ones before it left.
Adjustment: TypeAlias = LoraUse | WeightScale


@dataclass(frozen=True, slots=True)
class Share:
    """How much of each of two weights goes into tensors whose canonical names begin with `start`."""

    start: str
    base: float
    other: float


@dataclass(frozen=True, slots=True)
class Source:
    """Weights with their LoRAs, as a part of others."""

    weights: Weights
    loras: tuple[Adjustment, ...] = ()


@dataclass(frozen=True, slots=True)
class Blend:
    """Weights made of others: each tensor `base` times its share, plus `other` (None: nothing) times its.

    shares: of those whose start fits a name the longest counts; a tensor that none fits, or that `other`
    lacks, is the base's.
    """

    base: Source
    other: Source | None = None
    shares: tuple[Share, ...] = ()


def blended(blend: Blend) -> Weights:
    """The weights that a recipe makes. Equal recipes make equal weights."""
    base = blend.base.weights
    parts = [base.kind, _source_text(blend.base)]
    if blend.other is not None:
        parts.append(_source_text(blend.other))
    parts += [f"{share.start}:{share.base!r}:{share.other!r}" for share in blend.shares]
    digest = blake2b("\n".join(parts).encode(), digest_size=20).hexdigest()
    return replace(base, digest=digest, blend=blend)


def towards(base: Weights, others: Sequence[tuple[Weights, float]]) -> Weights:
    """The base drawn towards others: strength 1 of one alone is that one."""
    made = base
    for other, strength in others:
        if strength == 0:
            continue
        if len(others) == 1:
            return blended(Blend(Source(base), Source(other), (Share("", 1.0 - strength, strength),)))
        change = blended(Blend(Source(other), Source(base), (Share("", 1.0, -1.0),)))
        made = blended(Blend(Source(made), Source(change), (Share("", 1.0, strength),)))
    return made


def _source_text(source: Source) -> str:
    loras = (f"{use.weights.digest}*{use.strength!r}" for use in source.loras)
    return "+".join((source.weights.digest, *loras))


@dataclass(frozen=True, slots=True)
class Model:
    wire: ClassVar[str] = "MODEL"
    weights: Weights
    loras: tuple[Adjustment, ...] = ()
    patches: tuple[ModelPatch, ...] = ()

    def with_lora(self, lora: Weights, strength: float) -> Self:
        return self if strength == 0 else replace(self, loras=(*self.loras, LoraUse(lora, strength)))

    def scaled(self, factors: Mapping[str, float]) -> Self:
        """With layers times factors, by patterns of their names."""
        return replace(self, loras=(*self.loras, WeightScale(tuple(factors.items()))))

    def with_patch(self, patch: ModelPatch) -> Self:
        return replace(self, patches=(*self.patches, patch))


@dataclass(frozen=True, slots=True)
class ControlNet:
    """A control model.

    average: its additions are averaged over the picture, as "shuffle" models want it; kind: which of the
    hints that a union model was trained on it gets, None where nobody says.
    """

    wire: ClassVar[str] = "CONTROL_NET"
    weights: Weights
    average: bool = False
    kind: int | None = None


@dataclass(frozen=True, slots=True)
class ControlUse:
    """A control model at work on a condition, from percent `start` to `end` of the run (0..1).

    vae: for models that take an encoded picture; mask: what is to be made anew, for those that are told.
    """

    net: ControlNet
    image: Image
    strength: float
    start: float = 0.0
    end: float = 1.0
    vae: "Vae | None" = None
    mask: Mask | None = None


@dataclass(frozen=True, slots=True)
class Keyframe:
    """A hook's strength from percent `start` of the run on (0..1), for at least `steps` steps of it."""

    strength: float
    start: float
    steps: int = 1


@dataclass(frozen=True, slots=True)
class Keyframes:
    """Keyframes in the order of their starts; none: strength 1 all the time."""

    wire: ClassVar[str] = "HOOK_KEYFRAMES"
    frames: tuple[Keyframe, ...] = ()

    def plus(self, *frames: Keyframe) -> Self:
        return replace(self, frames=tuple(sorted((*self.frames, *frames), key=lambda frame: frame.start)))


@dataclass(frozen=True, slots=True)
class OtherModel:
    """A model that others are drawn towards, as by a LoRA that holds the whole difference."""

    denoiser: Weights
    encoders: tuple[Weights, ...]


@dataclass(frozen=True, slots=True)
class Hook:
    """A LoRA for the conditions that it is on, and for the encoding of their text, at a strength each."""

    lora: Weights | OtherModel
    model: float
    clip: float
    keyframes: Keyframes = Keyframes()

    def same(self, other: "Hook") -> bool:
        """The other is this one, whatever its keyframes."""
        return replace(self, keyframes=other.keyframes) == other


@dataclass(frozen=True, slots=True)
class Hooks:
    """Hooks, none of them twice."""

    wire: ClassVar[str] = "HOOKS"
    hooks: tuple[Hook, ...] = ()

    def plus(self, other: "Hooks | None") -> Self:
        """These, and those of the other that are not among them."""
        added = () if other is None else other.hooks
        new = tuple(hook for hook in added if not any(own.same(hook) for own in self.hooks))
        return replace(self, hooks=(*self.hooks, *new))

    def timed(self, keyframes: Keyframes) -> Self:
        """These with other keyframes."""
        return replace(self, hooks=tuple(replace(hook, keyframes=keyframes) for hook in self.hooks))


@dataclass(frozen=True, slots=True)
class ClipHooks:
    """The hooks of text encoders. scheduled: a text is encoded for each stretch of the run in which their
    keyframes stay; otherwise they have none. to_conditions: what is encoded gets them, keyframes and all.
    """

    hooks: Hooks
    to_conditions: bool
    scheduled: bool


@dataclass(frozen=True, slots=True)
class Clip:
    """Text encoders that work together, each a component of its own.

    family: the encoding they make (`models/text.py` lists them); stop_at: CLIPSetLastLayer's negative layer
    index; options: of tokenizers, by ComfyUI's names.
    """

    wire: ClassVar[str] = "CLIP"
    weights: tuple[Weights, ...]
    family: str = "sd15"
    stop_at: int | None = None
    loras: tuple[Adjustment, ...] = ()
    hooks: ClipHooks | None = None
    options: tuple[tuple[str, int], ...] = ()

    def scaled(self, factors: Mapping[str, float]) -> Self:
        """With layers times factors, by patterns of their names."""
        return replace(self, loras=(*self.loras, WeightScale(tuple(factors.items()))))

    def with_hooks(self, hooks: ClipHooks) -> Self:
        return replace(self, hooks=hooks)

    def with_lora(self, lora: Weights, strength: float) -> Self:
        return self if strength == 0 else replace(self, loras=(*self.loras, LoraUse(lora, strength)))


@dataclass(frozen=True, slots=True)
class Vae:
    """An autoencoder. tiny: its name, where it is a tiny one: its files do not say whose latents they are
    for.
    """

    wire: ClassVar[str] = "VAE"
    weights: Weights
    tiny: str = ""


@dataclass(frozen=True, slots=True)
class UpscaleModel:
    """A network that enlarges pictures."""

    wire: ClassVar[str] = "UPSCALE_MODEL"
    weights: Weights


@dataclass(frozen=True, slots=True)
class ClipVision:
    """An encoder of pictures."""

    wire: ClassVar[str] = "CLIP_VISION"
    weights: Weights


@dataclass(frozen=True, slots=True)
class StyleModel:
    """A network that makes tokens of an encoded picture."""

    wire: ClassVar[str] = "STYLE_MODEL"
    weights: Weights


@dataclass(frozen=True, slots=True)
class PatchNetwork:
    """A network that acts within a diffusion model's passes."""

    wire: ClassVar[str] = "MODEL_PATCH"
    weights: Weights


@dataclass(frozen=True, slots=True)
class Noise:
    """Initial noise. A disabled noise is all zeros; its seed still drives the noise of SDE samplers."""

    wire: ClassVar[str] = "NOISE"
    seed: int
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class GivenNoise:
    """Initial noise that a node pack made. values: a tensor as the latent; the seed is for SDE samplers."""

    wire: ClassVar[str] = "NOISE"
    values: Image
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
class BetaSchedule:
    """Sigmas of a model by a beta distribution's quantiles; alpha, beta > 0: its parameters."""

    steps: int
    alpha: float
    beta: float


@dataclass(frozen=True, slots=True)
class TurboSchedule:
    """Sigmas of a distilled SDXL or SD2 model: `steps` of its ten times, the first at `denoise` (0..1)."""

    steps: int
    denoise: float


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


@dataclass(frozen=True, slots=True)
class DualCfgGuider:
    """Guidance by two conditionings: cfg from `middle` to `positive`, middle_cfg from `negative` to `middle`.

    nested: middle_cfg goes from `negative` to the result of the other, instead of both being added.
    """

    wire: ClassVar[str] = "GUIDER"
    model: Model
    positive: Conditioning | Ref
    middle: Conditioning | Ref
    negative: Conditioning | Ref
    cfg: float
    middle_cfg: float
    nested: bool = False


@dataclass(frozen=True, slots=True)
class PerpNegGuider:
    """Guidance from `empty`, away from that part of `negative` alone which is not in `positive`."""

    wire: ClassVar[str] = "GUIDER"
    model: Model
    positive: Conditioning | Ref
    negative: Conditioning | Ref
    empty: Conditioning | Ref
    cfg: float
    neg_scale: float


Guider: TypeAlias = Annotated[BasicGuider | CfgGuider | DualCfgGuider | PerpNegGuider, Wire("GUIDER")]
REFERENCES = (
    Model,
    Clip,
    Vae,
    ControlNet,
    UpscaleModel,
    Keyframes,
    Hooks,
    ClipVision,
    StyleModel,
    PatchNetwork,
    Noise,
    GivenNoise,
    Sampler,
    Schedule,
    BetaSchedule,
    TurboSchedule,
    BasicGuider,
    CfgGuider,
    DualCfgGuider,
    PerpNegGuider,
    Tonemap,
    Sharpen,
)
