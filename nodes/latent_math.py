"""Latents turned, cut, joined, added."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from backend.deferred import torch
from backend.node import Choice, Float, Int, node
from backend.resize import resize
from backend.types import Latent
from nodes.composite import to_rows
from nodes.conditioning import MAX_RESOLUTION, Extent, Offset
from nodes.image_edit import FLIPS, TURNS
from nodes.latent import BatchSize
from nodes.text import one_of

if TYPE_CHECKING:
    from torch import Tensor

MODULE = "comfy_extras.nodes_latent"
ADVANCED = "latent/advanced"
AXES = {"x": -1, "y": -2, "t": -3}


@node("LatentRotate", category="latent/transform", display_name="Rotate Latent")
def latent_rotate(*, samples: Latent, rotation: Annotated[str, Choice(TURNS)]) -> Latent:
    """Turned clockwise."""
    return replace(samples, samples=torch.rot90(samples.samples, k=TURNS.index(rotation), dims=[3, 2]))


@node("LatentFlip", category="latent/transform", display_name="Flip Latent")
def latent_flip(*, samples: Latent, flip_method: Annotated[str, Choice(FLIPS)]) -> Latent:
    """Mirrored top to bottom or left to right."""
    return replace(samples, samples=samples.samples.flip(2 if flip_method == FLIPS[0] else 3))


@node("LatentCrop", category="latent/transform", display_name="Crop Latent")
def latent_crop(
    *, samples: Latent, width: Extent = 512, height: Extent = 512, x: Offset = 0, y: Offset = 0
) -> Latent:
    """A rectangle cut out, in pixels; it begins 8 latent pixels before the edge at the latest.

    In a latent of fewer pixels it begins before the first one, counted from the far edge, as ComfyUI has it.
    """
    left = min(x // 8, samples.samples.shape[3] - 8)
    top = min(y // 8, samples.samples.shape[2] - 8)
    cut = samples.samples[:, :, top : top + height // 8, left : left + width // 8]
    return replace(samples, samples=cut)


@node("LatentBlend", category="_for_testing", display_name="Latent Blend")
def latent_blend(
    *, samples1: Latent, samples2: Latent, blend_factor: Annotated[float, Float(0, 1, step=0.01)] = 0.5
) -> Latent:
    """A mean of two latents, the first counting `blend_factor`."""
    first, second = samples1.samples, samples2.samples
    if first.shape != second.shape:
        second = resize(second, first.shape[3], first.shape[2], "bicubic", "center")
    return replace(samples1, samples=first * blend_factor + second * (1 - blend_factor))


@node("LatentAdd", category=ADVANCED, module=MODULE)
def latent_add(*, samples1: Latent, samples2: Latent) -> Latent:
    """The sum."""
    return _joined(samples1, samples2, torch.add)


@node("LatentSubtract", category=ADVANCED, module=MODULE)
def latent_subtract(*, samples1: Latent, samples2: Latent) -> Latent:
    """The difference."""
    return _joined(samples1, samples2, torch.sub)


@node("LatentMultiply", category=ADVANCED, module=MODULE)
def latent_multiply(
    *, samples: Latent, multiplier: Annotated[float, Float(-10.0, 10.0, step=0.01)] = 1.0
) -> Latent:
    """Every value times a number."""
    return replace(samples, samples=samples.samples * multiplier)


@node("LatentInterpolate", category=ADVANCED, module=MODULE)
def latent_interpolate(
    *, samples1: Latent, samples2: Latent, ratio: Annotated[float, Float(0.0, 1.0, step=0.01)] = 1.0
) -> Latent:
    """Directions and lengths of the latent vectors mixed apart; the first counts `ratio`."""

    def mix(first: "Tensor", second: "Tensor") -> "Tensor":
        lengths = [torch.linalg.vector_norm(s, dim=1, keepdim=True) for s in (first, second)]
        ways = [torch.nan_to_num(s / length) for s, length in zip((first, second), lengths, strict=True)]
        way = ways[0] * ratio + ways[1] * (1.0 - ratio)
        way = torch.nan_to_num(way / torch.linalg.vector_norm(way, dim=1, keepdim=True))
        length: Tensor = lengths[0] * ratio + lengths[1] * (1.0 - ratio)
        return way * length

    return _joined(samples1, samples2, mix)


def _joined(first: Latent, second: Latent, join: "Callable[[Tensor, Tensor], Tensor]") -> Latent:
    """Two latents joined value by value; the second is brought to the size and number of the first."""
    other = to_rows(_fitted(second.samples, first.samples), first.samples.shape[0])
    return replace(first, samples=join(first.samples, other))


def _fitted(samples: "Tensor", like: "Tensor") -> "Tensor":
    if samples.shape[1:] == like.shape[1:]:
        return samples
    return resize(samples, like.shape[-1], like.shape[-2], "bilinear", "center")


@node("LatentConcat", category=ADVANCED, module=MODULE)
def latent_concat(
    *, samples1: Latent, samples2: Latent, dim: Annotated[str, one_of("x", "-x", "y", "-y", "t", "-t")]
) -> Latent:
    """Put side by side along an axis; with a minus the second comes first."""
    parts = [samples1.samples, to_rows(samples2.samples, samples1.samples.shape[0])]
    if dim.startswith("-"):
        parts.reverse()
    return replace(samples1, samples=torch.cat(parts, dim=AXES[dim[-1]]))


@node("LatentCut", category=ADVANCED, module=MODULE)
def latent_cut(
    *,
    samples: Latent,
    dim: Annotated[str, one_of("x", "y", "t")],
    index: Annotated[int, Int(-MAX_RESOLUTION, MAX_RESOLUTION, step=1)] = 0,
    amount: Annotated[int, Int(1, MAX_RESOLUTION, step=1)] = 1,
) -> Latent:
    """A piece along an axis; a negative index counts from the end."""
    length = samples.samples.shape[AXES[dim]]
    first = min(index, length - 1) if index >= 0 else max(index, -length) + length
    return replace(samples, samples=samples.samples.narrow(AXES[dim], first, min(amount, length - first)))


@node("LatentBatch", category="latent/batch", module=MODULE)
def latent_batch(*, samples1: Latent, samples2: Latent) -> Latent:
    """Both in one batch; every row keeps the index of its own batch."""
    rows = (samples1, samples2)
    indexes = [tuple(range(len(s.samples))) if s.batch_index is None else s.batch_index for s in rows]
    joined = torch.cat((samples1.samples, _fitted(samples2.samples, samples1.samples)))
    return replace(samples1, samples=joined, batch_index=indexes[0] + indexes[1])


@node("LatentBatchSeedBehavior", category=ADVANCED, module=MODULE)
def latent_batch_seed_behavior(
    *, samples: Latent, seed_behavior: Annotated[str, one_of("random", "fixed")] = "fixed"
) -> Latent:
    """Whether the rows of a batch get noise of their own, or all the same."""
    if seed_behavior == "random":
        return replace(samples, batch_index=None)
    first = samples.batch_index[0] if samples.batch_index else 0
    return replace(samples, batch_index=(first,) * samples.samples.shape[0])


SixteenthSide = Annotated[int, Int(16, MAX_RESOLUTION, step=16)]


@node("EmptySD3LatentImage", category="latent/sd3", module="comfy_extras.nodes_sd3")
def empty_sd3_latent_image(
    *, width: SixteenthSide = 1024, height: SixteenthSide = 1024, batch_size: BatchSize = 1
) -> Latent:
    """A batch of 16-channel latents to be filled by sampling; sizes in pixels."""
    return Latent(torch.zeros([batch_size, 16, height // 8, width // 8]))
