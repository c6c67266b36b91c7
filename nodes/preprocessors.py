"""Edges, shapes and colour spaces of pictures: what control models and masks are made from."""

import math
from typing import TYPE_CHECKING, Annotated

from backend.deferred import torch
from backend.node import Float, Int, node
from backend.types import Image
from nodes.text import one_of

if TYPE_CHECKING:
    from torch import Tensor

MORPHOLOGY = "comfy_extras.nodes_morphology"
OPERATIONS = ("erode", "dilate", "open", "close", "gradient", "bottom_hat", "top_hat")
Threshold = Annotated[float, Float(0.01, 0.99, step=0.01)]
# The eight neighbours of a pixel (down, right), by the direction of a gradient in eighths of a turn.
_NEIGHBOURS = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))
_FLAT = 1e-6  # the square of the magnitude that a flat pixel counts as


@node("Canny", category="image/preprocessors", module="comfy_extras.nodes_canny")
def canny(*, image: Image, low_threshold: Threshold = 0.4, high_threshold: Threshold = 0.8) -> Image:
    """White lines where the brightness changes most: above `high_threshold`, and above `low_threshold` where
    that is connected to such a line.
    """
    if image.shape[-1] not in (1, 3):
        raise ValueError(
            f"Canny takes pictures of 1 or 3 channels, not {image.shape[-1]}: split off the alpha."
        )
    if low_threshold > high_threshold:
        raise ValueError(
            f"low_threshold ({low_threshold}) is above high_threshold ({high_threshold}): exchange them."
        )
    edges = canny_edges(image.movedim(-1, 1), low_threshold, high_threshold)
    return edges.repeat(1, 3, 1, 1).movedim(1, -1)


def canny_edges(planes: "Tensor", low: float, high: float) -> "Tensor":
    """[B, 1 or 3, H, W] -> [B, 1, H, W] of 0 and 1.

    Source: Canny, "A Computational Approach to Edge Detection", 1986; blur, operator, ties and borders as in
    kornia 0.9, which ComfyUI uses.
    """
    across, down = _sobel(_blurred(_grey(planes)))
    pad = torch.nn.functional.pad
    padded = torch.sqrt(pad(across, (1,) * 4) ** 2 + pad(down, (1,) * 4) ** 2 + _FLAT)
    strength = padded[..., 1:-1, 1:-1]
    direction = (torch.atan2(down, across) * (4 / math.pi)).round().long() % 8
    height, width = strength.shape[-2:]
    around = torch.stack(
        [padded[..., 1 + y : 1 + y + height, 1 + x : 1 + x + width] for y, x in _NEIGHBOURS], -1
    )
    largest = strength > padded[..., :1, :1]
    for way in (direction, (direction + 4) % 8):
        other = around.gather(-1, way.unsqueeze(-1)).squeeze(-1)
        # Of two equal pixels the left or upper one counts.
        largest &= (strength > other) | ((strength == other) & ((way == 0) | (way == 2)))
    strength = strength * largest
    return _connected(strength > low, strength > high).to(planes.dtype)


def _grey(planes: "Tensor") -> "Tensor":
    if planes.shape[1] == 1:
        return planes
    red, green, blue = (planes[:, channel : channel + 1] for channel in range(3))
    return _luma(red, green, blue)


def _luma(red: "Tensor", green: "Tensor", blue: "Tensor") -> "Tensor":
    """ITU-R BT.601."""
    return 0.299 * red + 0.587 * green + 0.114 * blue


def _blurred(plane: "Tensor") -> "Tensor":
    """[B, 1, H, W] under a Gaussian of sigma 1 on 5 x 5 pixels, mirrored at the edges."""
    line = torch.exp(-(torch.arange(-2.0, 3.0) ** 2) / 2)
    line = (line / line.sum()).to(plane.dtype)
    padded = torch.nn.functional.pad(plane, (2, 2, 2, 2), mode="reflect")
    rows = torch.nn.functional.conv2d(padded, line.reshape(1, 1, 1, 5))
    return torch.nn.functional.conv2d(rows, line.reshape(1, 1, 5, 1))


def _sobel(plane: "Tensor") -> tuple["Tensor", "Tensor"]:
    """The gradient to the right and downwards, not normalised; the border's pixels repeated."""
    kernel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]], dtype=plane.dtype)
    padded = torch.nn.functional.pad(plane, (1, 1, 1, 1), mode="replicate")
    both = torch.nn.functional.conv2d(padded, torch.stack((kernel, kernel.T)).unsqueeze(1))
    return both[:, :1], both[:, 1:]


def _connected(weak: "Tensor", strong: "Tensor") -> "Tensor":
    """The strong pixels, and the weak ones that a chain of weak ones leads to them."""
    while True:
        near = torch.nn.functional.max_pool2d(strong.float(), 3, 1, 1) > 0
        grown = strong | (near & weak)
        if torch.equal(grown, strong):
            return strong
        strong = grown


@node("Morphology", category="image/postprocessing", display_name="ImageMorphology", module=MORPHOLOGY)
def morphology(
    *,
    image: Image,
    operation: Annotated[str, one_of(*OPERATIONS)],
    kernel_size: Annotated[int, Int(3, 999, step=1)] = 3,
) -> Image:
    """Bright shapes shrunk or grown by a square, and what such operations add or take away."""
    planes = image.movedim(-1, 1)
    match operation:
        case "erode":
            changed = eroded(planes, kernel_size)
        case "dilate":
            changed = dilated(planes, kernel_size)
        case "open":
            changed = dilated(eroded(planes, kernel_size), kernel_size)
        case "close":
            changed = eroded(dilated(planes, kernel_size), kernel_size)
        case "gradient":
            changed = dilated(planes, kernel_size) - eroded(planes, kernel_size)
        case "top_hat":
            changed = planes - dilated(eroded(planes, kernel_size), kernel_size)
        case _:  # bottom_hat
            changed = eroded(dilated(planes, kernel_size), kernel_size) - planes
    return changed.movedim(1, -1)


def dilated(planes: "Tensor", size: int) -> "Tensor":
    """[B, C, H, W]: the largest value in a square around each pixel; what is outside does not count.

    A square of even size reaches one pixel further to the right and down.
    """
    return _largest(planes, size, before=(size - 1) // 2)


def eroded(planes: "Tensor", size: int) -> "Tensor":
    """The smallest value likewise; an even square reaches further to the left and up."""
    return -_largest(-planes, size, before=size // 2)


def _largest(planes: "Tensor", size: int, before: int) -> "Tensor":
    """A square's maximum is that of its columns' maxima."""
    sides = (before, size - 1 - before)
    pad, pool = torch.nn.functional.pad, torch.nn.functional.max_pool2d
    rows = pool(pad(planes, sides, value=-math.inf), (1, size), 1)
    return pool(pad(rows, (0, 0, *sides), value=-math.inf), (size, 1), 1)


@node("ImageRGBToYUV", category="image/batch", module=MORPHOLOGY, outputs=("Y", "U", "V"))
def image_rgb_to_yuv(*, image: Image) -> tuple[Image, Image, Image]:
    """Brightness and the two colour differences (around 0.5), each as a grey picture. ITU-R BT.601."""
    red, green, blue = (image[..., channel : channel + 1] for channel in range(3))
    luma = _luma(red, green, blue)
    planes = (luma, (blue - luma) * 0.564 + 0.5, (red - luma) * 0.713 + 0.5)
    y, u, v = (plane.expand_as(image) for plane in planes)
    return y, u, v


@node("ImageYUVToRGB", category="image/batch", module=MORPHOLOGY)
def image_yuv_to_rgb(*, Y: Image, U: Image, V: Image) -> Image:
    """The colours of a brightness and two colour differences, each the mean of its picture's channels."""
    luma, blueness, redness = (plane.mean(dim=-1) for plane in (Y, U, V))
    blueness, redness = blueness - 0.5, redness - 0.5
    # The inverse of the above, to ten digits.
    red = luma + 1.4025245442 * redness
    green = luma - 0.7144034731 * redness - 0.3443401356 * blueness
    blue = luma + 1.7730496454 * blueness
    return torch.stack((red, green, blue), dim=-1).clamp(0, 1)
