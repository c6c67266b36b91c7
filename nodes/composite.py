"""One picture or latent put over another."""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from backend.deferred import torch
from backend.node import Boolean, Int, node
from backend.resize import resize
from backend.types import Image, Latent, Mask
from nodes.conditioning import MAX_RESOLUTION
from nodes.text import one_of

if TYPE_CHECKING:
    from torch import Tensor

Pixel = Annotated[int, Int(0, MAX_RESOLUTION, step=1)]
Eighth = Annotated[int, Int(0, MAX_RESOLUTION, step=8)]


def to_rows(batch: "Tensor", rows: int) -> "Tensor":
    """Exactly `rows` rows: repeated or cut."""
    if batch.shape[0] < rows:
        batch = batch.repeat(-(-rows // batch.shape[0]), *(1,) * (batch.ndim - 1))
    return batch[:rows]


def same_channels(first: Image, second: Image) -> tuple[Image, Image]:
    """The second brought to the channels of the first: cut, or with an opaque alpha added.

    A second of one channel stays, and goes with all of the first, which gets an opaque alpha as in ComfyUI.
    """
    missing = first.shape[-1] - second.shape[-1]
    if missing > 0 and second.shape[-1] == 1:
        return torch.nn.functional.pad(first, (0, 1), value=1.0), second
    return first, torch.nn.functional.pad(second, (0, missing), value=1.0)


def put_over(below: "Tensor", above: "Tensor", left: int, top: int, mask: Mask | None) -> "Tensor":
    """[B, C, H, W] over another at (left, top) >= 0; the mask is resized to what is put."""
    above = to_rows(above, below.shape[0])
    result = below.clone()
    target = result[..., top : top + above.shape[-2], left : left + above.shape[-1]]
    height, width = target.shape[-2:]
    share: Tensor | float = 1.0
    if mask is not None:
        flat = mask.reshape((-1, 1, mask.shape[-2], mask.shape[-1]))
        sized = torch.nn.functional.interpolate(flat, size=above.shape[-2:], mode="bilinear")
        share = to_rows(sized, above.shape[0])[..., :height, :width]
        if above.ndim == 5:
            share = share.unsqueeze(2)
    target.copy_(above[..., :height, :width] * share + target * (1.0 - share))
    return result


@node("ImageCompositeMasked", category="image", module="comfy_extras.nodes_mask")
def image_composite_masked(
    *,
    destination: Image,
    source: Image,
    x: Pixel = 0,
    y: Pixel = 0,
    resize_source: Annotated[bool, Boolean()] = False,
    mask: Mask | None = None,
) -> Image:
    """A picture over another, where the mask lets it."""
    destination, source = same_channels(destination, source)
    below, above = destination.movedim(-1, 1), source.movedim(-1, 1)
    if resize_source:
        above = resize(above, below.shape[-1], below.shape[-2], "bilinear")
    return put_over(below, above, min(x, below.shape[-1]), min(y, below.shape[-2]), mask).movedim(1, -1)


@node("LatentCompositeMasked", category="latent", module="comfy_extras.nodes_mask")
def latent_composite_masked(
    *,
    destination: Latent,
    source: Latent,
    x: Eighth = 0,
    y: Eighth = 0,
    resize_source: Annotated[bool, Boolean()] = False,
    mask: Mask | None = None,
) -> Latent:
    """A latent over another, where the mask lets it; places in pixels."""
    below, above = destination.samples, source.samples
    if resize_source:
        above = resize(above, below.shape[-1], below.shape[-2], "bilinear")
    return replace(destination, samples=put_over(below, above, x // 8, y // 8, mask))


@node("LatentComposite", category="latent", display_name="Latent Composite")
def latent_composite(
    *, samples_to: Latent, samples_from: Latent, x: Eighth = 0, y: Eighth = 0, feather: Eighth = 0
) -> Latent:
    """A latent over another, its inner edges faded over `feather` pixels."""
    below, above = samples_to.samples, samples_from.samples
    left, top, soft = x // 8, y // 8, feather // 8
    result = below.clone()
    target = result[:, :, top : top + above.shape[2], left : left + above.shape[3]]
    part = above[:, :, : target.shape[2], : target.shape[3]]
    inner = (top != 0, top + part.shape[2] < below.shape[2], left != 0, left + part.shape[3] < below.shape[3])
    share = _fade(part.shape[2], soft, *inner[:2])[:, None] * _fade(part.shape[3], soft, *inner[2:])
    target.copy_(part * share + target * (1 - share))
    return replace(samples_to, samples=result)


def _fade(length: int, soft: int, near: bool, far: bool) -> "Tensor":
    """1 in the middle, rising over `soft` from the edges that are to fade."""
    line = torch.ones(length)
    for step in range(soft):
        if near:
            line[step : step + 1] *= (step + 1) / soft
        if far:  # past the near edge it begins at the far one again, as ComfyUI has it
            line[length - 1 - step : length - step] *= (step + 1) / soft
    return line


# -- alpha -----------------------------------------------------------------------------------------

COMPOSITING = "comfy_extras.nodes_compositing"


@node(
    "SplitImageWithAlpha",
    category="mask/compositing",
    display_name="Split Image with Alpha",
    module=COMPOSITING,
)
def split_image_with_alpha(*, image: Image) -> tuple[Image, Mask]:
    """The colours, and 1 - alpha as a mask."""
    alpha = image[..., 3] if image.shape[-1] > 3 else torch.ones(image.shape[:-1])
    return image[..., :3], 1.0 - alpha


@node(
    "JoinImageWithAlpha",
    category="mask/compositing",
    display_name="Join Image with Alpha",
    module=COMPOSITING,
)
def join_image_with_alpha(*, image: Image, alpha: Mask) -> Image:
    """A picture with 1 - mask as its alpha."""
    rows = min(len(image), len(alpha))
    flat = alpha.reshape((-1, 1, *alpha.shape[-2:]))
    sized = resize(flat, image.shape[2], image.shape[1], "bilinear")
    return torch.cat((image[:rows, ..., :3], 1.0 - sized[:rows].movedim(1, -1)), dim=-1)


PORTER_DUFF = (
    "ADD CLEAR DARKEN DST DST_ATOP DST_IN DST_OUT DST_OVER LIGHTEN MULTIPLY OVERLAY SCREEN SRC SRC_ATOP "
    "SRC_IN SRC_OUT SRC_OVER XOR"
)
# What each operator keeps of source and of destination: all, nothing, "o" what the other leaves free, "i"
# what it covers. Porter and Duff, "Compositing Digital Images", 1984.
_SHARES = {
    "CLEAR": ("0", "0"),
    "SRC": ("1", "0"),
    "DST": ("0", "1"),
    "SRC_OVER": ("1", "o"),
    "DST_OVER": ("o", "1"),
    "SRC_IN": ("i", "0"),
    "DST_IN": ("0", "i"),
    "SRC_OUT": ("o", "0"),
    "DST_OUT": ("0", "o"),
    "SRC_ATOP": ("i", "o"),
    "DST_ATOP": ("o", "i"),
    "XOR": ("o", "o"),
}


@node(
    "PorterDuffImageComposite",
    category="mask/compositing",
    display_name="Porter-Duff Image Composite",
    module=COMPOSITING,
)
def porter_duff_image_composite(
    *,
    source: Image,
    source_alpha: Mask,
    destination: Image,
    destination_alpha: Mask,
    mode: Annotated[str, one_of(*PORTER_DUFF.split())] = "DST",
) -> tuple[Image, Mask]:
    """Two pictures with masks (1 - alpha) put together by an operator."""
    rows = min(len(source), len(source_alpha), len(destination), len(destination_alpha))
    if source.shape[-1] != destination.shape[-1]:
        raise ValueError(
            f"source has {source.shape[-1]} channels, destination {destination.shape[-1]}. Give both as many."
        )
    height, width = destination.shape[1:3]
    planes = (
        source.movedim(-1, 1),
        source_alpha.unsqueeze(1),
        destination.movedim(-1, 1),
        destination_alpha.unsqueeze(1),
    )
    sized = [_to_size(plane[:rows], width, height).movedim(1, -1) for plane in planes]
    image, alpha = _composed(sized[0], 1 - sized[1], sized[2], 1 - sized[3], mode)
    image = torch.where(alpha > 1e-5, image / alpha, 0.0).clamp(0, 1)
    return image, (1 - alpha).squeeze(-1)


def _to_size(plane: "Tensor", width: int, height: int) -> "Tensor":
    return plane if plane.shape[-2:] == (height, width) else resize(plane, width, height, "bicubic", "center")


def _composed(
    source: "Tensor", above: "Tensor", destination: "Tensor", below: "Tensor", mode: str
) -> tuple["Tensor", "Tensor"]:
    """Colours (multiplied by alpha) and alpha of the result; above and below are the alphas."""
    source, destination = source * above, destination * below
    if mode in _SHARES:
        ours, theirs = (
            _share(kept, cover) for kept, cover in zip(_SHARES[mode], (below, above), strict=True)
        )
        return source * ours + destination * theirs, above * ours + below * theirs
    union = above + below - above * below
    apart = (1 - below) * source + (1 - above) * destination
    match mode:
        case "ADD":
            return (source + destination).clamp(0, 1), (above + below).clamp(0, 1)
        case "DARKEN":
            return apart + torch.minimum(source, destination), union
        case "LIGHTEN":
            return apart + torch.maximum(source, destination), union
        case "MULTIPLY":
            return source * destination, above * below
        case "SCREEN":
            return source + destination - source * destination, union
    dark = 2 * source * destination
    light = above * below - 2 * (below - source) * (above - destination)
    return torch.where(2 * destination < below, dark, light), union  # OVERLAY


def _share(kept: str, cover: "Tensor") -> "Tensor":
    return {"0": torch.zeros_like(cover), "1": torch.ones_like(cover), "i": cover, "o": 1 - cover}[kept]
