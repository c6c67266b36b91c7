"""The words the rest is written in: ids, and the values that flow along a workflow's wires."""

from collections.abc import Mapping
from dataclasses import field
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, NewType, TypeAlias

from backend.values import frozen

if TYPE_CHECKING:
    from torch import Tensor
else:

    class Tensor:
        """Stands in for torch.Tensor in annotations, so that listing nodes does not load torch."""


JobId = NewType("JobId", str)  # what clients call a job; two unfinished jobs may share one
JobKey = NewType("JobKey", int)  # what we call it
NodeId = NewType("NodeId", str)
OpKey = NewType("OpKey", str)
DeviceId = NewType("DeviceId", str)
ComponentId = NewType("ComponentId", str)
ClientId = NewType("ClientId", str)
Seconds: TypeAlias = float
Part: TypeAlias = Literal["calls", "controls"]  # of a sampling run, that another device computes


@frozen
class Wire:
    """The name that ComfyUI gives to a type of value, for use in `Annotated`."""

    name: str


Image: TypeAlias = Annotated[Tensor, Wire("IMAGE")]  # float32 [B, H, W, C], 0..1
Mask: TypeAlias = Annotated[Tensor, Wire("MASK")]  # float32 [B, H, W], 0..1
Sigmas: TypeAlias = Annotated[Tensor, Wire("SIGMAS")]  # float32 [steps + 1], decreasing
AnyValue: TypeAlias = Annotated[object, Wire("*")]


@frozen
class Latent:
    """A batch of latents in the family's unscaled units.

    samples float32 [B, C, H, W] (or [B, C, T, H, W]); noise_mask float32, 1 where noise goes, broadcastable
    to the samples after resizing; batch_index: the index each row had in the batch it was cut from (it picks
    the row's noise); extra: keys that third-party nodes put beside them.
    """

    wire: ClassVar[str] = "LATENT"
    samples: Tensor
    noise_mask: Tensor | None = None
    batch_index: tuple[int, ...] | None = None
    extra: Mapping[str, object] = field(default_factory=dict)


@frozen
class Cond:
    """One encoded condition: ComfyUI's `[tensor, dict]`.

    tokens float32 [B, T, C]; pooled float32 [B, D] or None; options: everything else of the dict, by
    ComfyUI's names (area, mask, strength, start_percent ...).
    """

    tokens: Tensor
    pooled: Tensor | None = None
    options: Mapping[str, object] = field(default_factory=dict)


@frozen
class ClipVisionOutput:
    """Encoded pictures, under ComfyUI's names.

    last_hidden_state, penultimate_hidden_states float32 [B, T, C]: of the last layer and of the one before;
    image_embeds [B, D]: pooled and projected (of SigLIP all tokens); mm_projected: for a language model, None
    where the encoder has no such projection; all_hidden_states [B, L, T, C]: of every layer, of SigLIP alone.
    """

    wire: ClassVar[str] = "CLIP_VISION_OUTPUT"
    last_hidden_state: Tensor
    image_embeds: Tensor
    penultimate_hidden_states: Tensor
    mm_projected: Tensor | None = None
    all_hidden_states: Tensor | None = None

    def __getitem__(self, name: str) -> Tensor | None:
        """As packs read it."""
        value: Tensor | None = getattr(self, name)
        return value


Conditioning: TypeAlias = Annotated[tuple[Cond, ...], Wire("CONDITIONING")]


@frozen
class Blocked:
    """A value that keeps the nodes that would read it from being called; their outputs are blocked in turn.

    message: what the first of them reports as an `execution_error`, while the prompt goes on; None: silent.
    """

    message: str | None = None


# What these wires carry may be handed to a model node before it exists; every other value is awaited first.
DATA_WIRES = frozenset({"IMAGE", "MASK", "LATENT", "SIGMAS", "CONDITIONING", "CLIP_VISION_OUTPUT"})
