"""Filters on pictures."""

from typing import TYPE_CHECKING, Annotated

import numpy as np

from backend.deferred import torch
from backend.media import Floats, quantize, to_floats
from backend.node import Float, Int, node
from backend.types import Image
from nodes.composite import same_channels
from nodes.image import resize_image
from nodes.text import one_of

if TYPE_CHECKING:
    from torch import Tensor

CATEGORY = "image/postprocessing"
MODULE = "comfy_extras.nodes_post_processing"
Radius = Annotated[int, Int(1, 31, step=1)]


@node("ImageBlend", category=CATEGORY, module=MODULE)
def image_blend(
    *,
    image1: Image,
    image2: Image,
    blend_factor: Annotated[float, Float(0.0, 1.0, step=0.01)] = 0.5,
    blend_mode: Annotated[str, one_of("normal", "multiply", "screen", "overlay", "soft_light", "difference")],
) -> Image:
    """The second picture laid over the first."""
    image1, image2 = same_channels(image1, image2)
    if image1.shape != image2.shape:
        image2 = resize_image(image2, image1.shape[2], image1.shape[1], "bicubic", "center")
    mixed = blended(image1, image2, blend_mode)
    return (image1 * (1 - blend_factor) + mixed * blend_factor).clamp(0, 1)


def blended(below: "Tensor", above: "Tensor", mode: str) -> "Tensor":
    """Blend modes as image editors define them (soft light: the W3C's formula)."""
    match mode:
        case "multiply":
            return below * above
        case "screen":
            return 1 - (1 - below) * (1 - above)
        case "overlay":
            return torch.where(below <= 0.5, 2 * below * above, 1 - 2 * (1 - below) * (1 - above))
        case "difference":
            return below - above
        case "soft_light":
            curve = torch.where(below <= 0.25, ((16 * below - 12) * below + 4) * below, below.sqrt())
            darker = below - (1 - 2 * above) * below * (1 - below)
            return torch.where(above <= 0.5, darker, below + (2 * above - 1) * (curve - below))
    return above  # normal


@node("ImageBlur", category=CATEGORY, module=MODULE)
def image_blur(
    *, image: Image, blur_radius: Radius = 1, sigma: Annotated[float, Float(0.1, 10.0, step=0.1)] = 1.0
) -> Image:
    """Gaussian blur; sigma in units of the radius."""
    return filtered(image.movedim(-1, 1), gaussian(blur_radius, sigma)).movedim(1, -1)


@node("ImageSharpen", category=CATEGORY, module=MODULE)
def image_sharpen(
    *,
    image: Image,
    sharpen_radius: Radius = 1,
    sigma: Annotated[float, Float(0.1, 10.0, step=0.01)] = 1.0,
    alpha: Annotated[float, Float(0.0, 5.0, step=0.01)] = 1.0,
) -> Image:
    """Unsharp masking; sigma in units of the radius."""
    kernel = sharpening(sharpen_radius, sigma, alpha)
    return filtered(image.movedim(-1, 1), kernel).movedim(1, -1).clamp(0, 1)


def gaussian(radius: int, sigma: float) -> "Tensor":
    """[2 radius + 1, 2 radius + 1], sum 1; the radius is the unit of sigma."""
    line = torch.linspace(-1, 1, 2 * radius + 1)
    # By way of the root, as ComfyUI has it: its rounding decides a hundredth of an 8-bit picture's values.
    distance = torch.sqrt(line[:, None] ** 2 + line**2)
    kernel = torch.exp(-(distance * distance) / (2.0 * sigma * sigma))
    return kernel / kernel.sum()


def sharpening(radius: int, sigma: float, alpha: float) -> "Tensor":
    """The identity plus `10 alpha` times what a Gaussian takes away; sum 1."""
    kernel = gaussian(radius, sigma) * -(alpha * 10)
    kernel[radius, radius] += 1.0 - kernel.sum()
    return kernel


def filtered(planes: "Tensor", kernel: "Tensor") -> "Tensor":
    """[B, C, H, W] under a kernel, each channel by itself, mirrored at the edges."""
    radius, channels = kernel.shape[0] // 2, planes.shape[1]
    if radius >= min(planes.shape[-2:]):
        raise ValueError(
            f"A radius of {radius} is too large for {planes.shape[-1]} x {planes.shape[-2]}: reduce it."
        )
    padded = torch.nn.functional.pad(planes, (radius,) * 4, mode="reflect")
    return torch.nn.functional.conv2d(padded, kernel.expand(channels, 1, *kernel.shape), groups=channels)


DITHERS = ("none", "floyd-steinberg", "bayer-2", "bayer-4", "bayer-8", "bayer-16")


@node("ImageQuantize", category=CATEGORY, module=MODULE)
def image_quantize(
    *,
    image: Image,
    colors: Annotated[int, Int(1, 256, step=1)] = 256,
    dither: Annotated[str, one_of(*DITHERS)],
) -> Image:
    """Reduced to so many colours, with or without dithering; values outside 0..1 wrap, as in ComfyUI."""
    wrapped = (image * 255).to(torch.uint8)
    offsets = bayer(int(dither.removeprefix("bayer-"))) if dither.startswith("bayer-") else None
    reduced = [
        quantize(pixels, colors, dither=dither == "floyd-steinberg", offsets=offsets)
        for pixels in wrapped.numpy()
    ]
    return torch.from_numpy(to_floats(np.stack(reduced)))


def bayer(side: int) -> Floats:
    """Bayer's matrix for ordered dithering, [side, side], around 0, its range below 1; side: a power of 2."""
    matrix: Floats = np.zeros((1, 1), np.float32)
    while len(matrix) < side:
        fields = 4 * matrix.size
        inner = matrix * fields
        fourfold = np.block([[inner - 1.5, inner + 0.5], [inner + 1.5, inner - 0.5]])
        matrix = (fourfold / fields).astype(np.float32)
    return matrix
