"""References: immutable descriptions of models and of what acts on them. They load nothing.

A reference may hold `Lazy` values (results that do not exist yet); `ops.py` says what those are.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Self

from backend.components import Adjustment, LoraUse, Weights, WeightScale
from backend.patches import ModelPatch
from backend.types import Image, Mask, OpKey
from backend.values import frozen


@frozen
class Ref:
    """One output of an op of the live graph, whether it has run or not.

    slot: which output; item: which element, where the output is a list.
    """

    key: OpKey
    slot: int = 0
    item: int = 0


@frozen
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


@frozen
class ControlNet:
    """A control model.

    average: its additions are averaged over the picture, as "shuffle" models want it; kind: which of the
    hints that a union model was trained on it gets, None where nobody says.
    """

    wire: ClassVar[str] = "CONTROL_NET"
    weights: Weights
    average: bool = False
    kind: int | None = None


@frozen
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


@frozen
class Keyframe:
    """A hook's strength from percent `start` of the run on (0..1), for at least `steps` steps of it."""

    strength: float
    start: float
    steps: int = 1


@frozen
class Keyframes:
    """Keyframes in the order of their starts; none: strength 1 all the time."""

    wire: ClassVar[str] = "HOOK_KEYFRAMES"
    frames: tuple[Keyframe, ...] = ()

    def plus(self, *frames: Keyframe) -> Self:
        return replace(self, frames=tuple(sorted((*self.frames, *frames), key=lambda frame: frame.start)))


@frozen
class OtherModel:
    """A model that others are drawn towards, as by a LoRA that holds the whole difference."""

    denoiser: Weights
    encoders: tuple[Weights, ...]


@frozen
class Hook:
    """A LoRA for the conditions that it is on, and for the encoding of their text, at a strength each."""

    lora: Weights | OtherModel
    model: float
    clip: float
    keyframes: Keyframes = Keyframes()

    def same(self, other: "Hook") -> bool:
        """The other is this one, whatever its keyframes."""
        return replace(self, keyframes=other.keyframes) == other


@frozen
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


@frozen
class ClipHooks:
    """The hooks of text encoders. scheduled: a text is encoded for each stretch of the run in which their
    keyframes stay; otherwise they have none. to_conditions: what is encoded gets them, keyframes and all.
    """

    hooks: Hooks
    to_conditions: bool
    scheduled: bool


@frozen
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


@frozen
class Vae:
    """An autoencoder. tiny: its name, where it is a tiny one: its files do not say whose latents they are
    for.
    """

    wire: ClassVar[str] = "VAE"
    weights: Weights
    tiny: str = ""


@frozen
class UpscaleModel:
    """A network that enlarges pictures."""

    wire: ClassVar[str] = "UPSCALE_MODEL"
    weights: Weights


@frozen
class ClipVision:
    """An encoder of pictures."""

    wire: ClassVar[str] = "CLIP_VISION"
    weights: Weights


@frozen
class StyleModel:
    """A network that makes tokens of an encoded picture."""

    wire: ClassVar[str] = "STYLE_MODEL"
    weights: Weights


@frozen
class PatchNetwork:
    """A network that acts within a diffusion model's passes."""

    wire: ClassVar[str] = "MODEL_PATCH"
    weights: Weights


MODELS = (
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
)
