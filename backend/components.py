"""Components: what networks' weights are, where they can be read, and what is done to them.

A component is known by its content, so equal ones of different files are one.
"""

from collections.abc import Sequence
from dataclasses import field, replace
from hashlib import blake2b
from typing import ClassVar, Literal, Self, TypeAlias

from backend.types import ComponentId
from backend.values import frozen


@frozen
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


@frozen
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


@frozen
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


@frozen
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
    def size(self) -> int:
        """Bytes of its tensors, or of its files where that is unknown."""
        return self.nbytes or sum(file.size for file in self.files)

    @property
    def id(self) -> ComponentId:
        """Equal for equal weights: what residency, batching and content keys go by."""
        id = f"{self.kind}@{self.digest}"
        return ComponentId(f"{id}:{self.precision}" if self.precision else id)


@frozen
class LoraUse:
    """A LoRA (weights of that kind, from one file) at a strength; any number, negative too."""

    weights: Weights
    strength: float

    @property
    def file(self) -> File:
        """Where the LoRA can be read."""
        return self.weights.files[0]


@frozen
class Adapter:
    """A LoRA as a device holds it: its changes of the layers of one network, at any strength."""

    lora: Weights
    target: Weights

    @property
    def id(self) -> ComponentId:
        return adapter_id(self.lora.id, self.target.id)

    @property
    def size(self) -> int:
        """Bytes of its file, whichever part of that is for the target."""
        return self.lora.size


Loadable: TypeAlias = Weights | Adapter


def adapter_id(lora: ComponentId, target: ComponentId) -> ComponentId:
    return ComponentId(f"{lora} on {target}")


@frozen
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


@frozen
class Share:
    """How much of each of two weights goes into tensors whose canonical names begin with `start`."""

    start: str
    base: float
    other: float


@frozen
class Source:
    """Weights with their LoRAs, as a part of others."""

    weights: Weights
    loras: tuple[Adjustment, ...] = ()


@frozen
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
