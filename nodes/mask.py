"""Masks: made, changed, turned into pictures and back."""

from typing import Annotated

from backend.deferred import torch
from backend.node import Boolean, Choice, Float, Int, Result, node
from backend.settings import Settings
from backend.storage import Storage
from backend.types import Image, Mask
from nodes.conditioning import MAX_RESOLUTION
from nodes.image import Side
from nodes.image_files import ExtraInfo, Prompt, embedded_text, save_pngs

MODULE = "comfy_extras.nodes_mask"
Offset = Annotated[int, Int(0, MAX_RESOLUTION, step=1)]
Fraction = Annotated[float, Float(0.0, 1.0, step=0.01)]
CHANNELS = ("red", "green", "blue", "alpha")


def batched(mask: Mask) -> Mask:
    """[H, W], [B, H, W] or [B, 1, H, W] -> [B, H, W]."""
    return mask.reshape((-1, mask.shape[-2], mask.shape[-1]))


def as_image(mask: Mask) -> Image:
    """A grey picture of a mask."""
    return batched(mask).unsqueeze(-1).expand(-1, -1, -1, 3)


@node("MaskToImage", category="mask", display_name="Convert Mask to Image", module=MODULE)
def mask_to_image(*, mask: Mask) -> Image:
    """A grey picture of a mask."""
    return as_image(mask)


@node("ImageToMask", category="mask", display_name="Convert Image to Mask", module=MODULE)
def image_to_mask(*, image: Image, channel: Annotated[str, Choice(CHANNELS)]) -> Mask:
    """One channel of a picture."""
    index = CHANNELS.index(channel)
    if index >= image.shape[-1]:
        raise ValueError(
            f"The picture has {image.shape[-1]} channels and no {channel}. Pick another channel."
        )
    return image[..., index]


@node("ImageColorToMask", category="mask", module=MODULE)
def image_color_to_mask(
    *, image: Image, color: Annotated[int, Int(0, 0xFFFFFF, step=1, display="color")] = 0
) -> Mask:
    """1 where the picture has just this colour, 0xRRGGBB."""
    bytes_ = (image[..., :3].clamp(0, 1) * 255.0).round().to(torch.int32)
    wanted = torch.tensor([color >> shift & 0xFF for shift in (16, 8, 0)], dtype=torch.int32)
    return (bytes_ == wanted).all(-1).float()


@node("SolidMask", category="mask", module=MODULE)
def solid_mask(*, value: Fraction = 1.0, width: Side = 512, height: Side = 512) -> Mask:
    """A mask of one value."""
    return torch.full((1, height, width), value)


@node("InvertMask", category="mask", module=MODULE)
def invert_mask(*, mask: Mask) -> Mask:
    """1 minus every value."""
    return 1.0 - mask


@node("CropMask", category="mask", module=MODULE)
def crop_mask(*, mask: Mask, x: Offset = 0, y: Offset = 0, width: Side = 512, height: Side = 512) -> Mask:
    """A rectangle cut out."""
    return batched(mask)[:, y : y + height, x : x + width]


@node("MaskComposite", category="mask", module=MODULE)
def mask_composite(
    *,
    destination: Mask,
    source: Mask,
    x: Offset = 0,
    y: Offset = 0,
    operation: Annotated[str, Choice(("multiply", "add", "subtract", "and", "or", "xor"))],
) -> Mask:
    """A mask put over another at (x, y) by an operation."""
    result, above = batched(destination).clone(), batched(source)
    below = result[:, y : y + above.shape[1], x : x + above.shape[2]]
    above = above[:, : below.shape[1], : below.shape[2]]
    if operation in ("and", "or", "xor"):
        ours, theirs = below.round().bool(), above.round().bool()
        mixed = {"and": ours & theirs, "or": ours | theirs, "xor": ours ^ theirs}[operation].float()
    elif operation == "multiply":
        mixed = below * above
    else:
        mixed = below + above if operation == "add" else below - above
    below.copy_(mixed)
    return result.clamp(0.0, 1.0)


@node("FeatherMask", category="mask", module=MODULE)
def feather_mask(
    *, mask: Mask, left: Offset = 0, top: Offset = 0, right: Offset = 0, bottom: Offset = 0
) -> Mask:
    """A mask that fades towards its edges, over so many pixels each."""
    result = batched(mask).clone()
    for size, axis, far in ((left, 2, False), (right, 2, True), (top, 1, False), (bottom, 1, True)):
        count = min(size, result.shape[axis])
        line = torch.ones(result.shape[axis])
        for step in range(count):
            # ComfyUI counts the far edges from -0, so their first factor falls on the near edge.
            line[-step if far else step] *= (step + 1) / count
        result *= line if axis == 2 else line[:, None]
    return result


@node("GrowMask", category="mask", module=MODULE)
def grow_mask(
    *,
    mask: Mask,
    expand: Annotated[int, Int(-MAX_RESOLUTION, MAX_RESOLUTION, step=1)] = 0,
    tapered_corners: Annotated[bool, Boolean()] = True,
) -> Mask:
    """A mask grown (or, below 0, shrunk) by so many pixels, its corners rounded or square."""
    grown = -batched(mask) if expand < 0 else batched(mask)
    # After as many steps as lead from corner to corner nothing changes any more.
    for _ in range(min(abs(expand), sum(grown.shape[1:]))):
        grown = _grown(grown, tapered_corners)
    return -grown if expand < 0 else grown


def _grown(mask: Mask, tapered: bool) -> Mask:
    """By one pixel: the largest of the neighbours, with the four corners or without."""
    pool = torch.nn.functional.max_pool2d
    if not tapered:
        return pool(mask, 3, 1, 1)
    return torch.maximum(pool(mask, (1, 3), 1, (0, 1)), pool(mask, (3, 1), 1, (1, 0)))


@node("ThresholdMask", category="mask", module=MODULE)
def threshold_mask(*, mask: Mask, value: Fraction = 0.5) -> Mask:
    """1 where the mask is above a value."""
    return (mask > value).float()


@node("MaskPreview", category="mask", module=MODULE, output_node=True)
def mask_preview(
    *,
    mask: Mask,
    prompt: Prompt = None,
    extra_pnginfo: ExtraInfo = None,
    storage: Storage,
    settings: Settings,
) -> Result:
    """Show a mask without keeping it."""
    text = embedded_text(settings, prompt, extra_pnginfo)
    return save_pngs(storage, "temp", f"ComfyUI_temp_{storage.temp_tag}", as_image(mask), text)
