"""Pictures: made, turned, sized, joined."""

from typing import Annotated

import numpy as np

from backend.deferred import torch
from backend.node import Choice, Float, Int, node
from backend.resize import CROPS, IMAGE_METHODS, resize
from backend.types import Image
from nodes.conditioning import MAX_RESOLUTION
from nodes.latent import BatchSize

Side = Annotated[int, Int(1, MAX_RESOLUTION, step=1)]
NewSide = Annotated[int, Int(0, MAX_RESOLUTION, step=1)]
Method = Annotated[str, Choice(IMAGE_METHODS)]
Crop = Annotated[str, Choice(CROPS)]


def resize_image(image: Image, width: int, height: int, method: str, crop: str = "disabled") -> Image:
    """[B, H, W, C] resized."""
    return resize(image.movedim(-1, 1), width, height, method, crop).movedim(1, -1)


@node("EmptyImage", category="image")
def empty_image(
    *,
    width: Side = 512,
    height: Side = 512,
    batch_size: BatchSize = 1,
    color: Annotated[int, Int(0, 0xFFFFFF, step=1, display="color")] = 0,
) -> Image:
    """Pictures of one colour, given as 0xRRGGBB."""
    row = np.empty((width, 3), np.float32)
    row[:] = [(color >> shift & 0xFF) / 0xFF for shift in (16, 8, 0)]
    images = np.empty((batch_size, height, width, 3), np.float32)
    images[:] = row  # whole rows are copied: several times faster than pixel by pixel
    return torch.from_numpy(images)


@node("ImageInvert", category="image", display_name="Invert Image")
def image_invert(*, image: Image) -> Image:
    """1 minus every value."""
    return 1.0 - image


@node("ImageScale", category="image/upscaling", display_name="Upscale Image")
def image_scale(
    *, image: Image, upscale_method: Method, width: NewSide = 512, height: NewSide = 512, crop: Crop
) -> Image:
    """Resize; a side of 0 follows from the other."""
    if width == 0 and height == 0:
        return image
    old_height, old_width = image.shape[1:3]
    if width == 0:
        width = max(1, round(old_width * height / old_height))
    elif height == 0:
        height = max(1, round(old_height * width / old_width))
    return resize_image(image, width, height, upscale_method, crop)


@node("ImageScaleBy", category="image/upscaling", display_name="Upscale Image By")
def image_scale_by(
    *, image: Image, upscale_method: Method, scale_by: Annotated[float, Float(0.01, 8.0, step=0.01)] = 1.0
) -> Image:
    """Resize by a factor."""
    height, width = image.shape[1:3]
    return resize_image(image, round(width * scale_by), round(height * scale_by), upscale_method)


@node("ImageBatch", category="image", display_name="Batch Images")
def image_batch(*, image1: Image, image2: Image) -> Image:
    """Both in one batch; the second is brought to the size of the first."""
    if image1.shape[1:] != image2.shape[1:]:
        image2 = resize_image(image2, image1.shape[2], image1.shape[1], "bilinear", "center")
    return torch.cat((image1, image2), dim=0)
