"""Latents: empty ones, sizes, masks, composition."""

from dataclasses import replace
from typing import Annotated

from backend.deferred import torch
from backend.node import Choice, Float, Int, node
from backend.resize import CROPS, LATENT_METHODS, resize
from backend.types import Latent, Mask
from nodes.conditioning import MAX_RESOLUTION

Side = Annotated[int, Int(16, MAX_RESOLUTION, step=8)]
NewSide = Annotated[int, Int(0, MAX_RESOLUTION, step=8)]
BatchSize = Annotated[int, Int(1, 4096)]


@node("EmptyLatentImage", category="latent", display_name="Empty Latent Image")
def empty_latent_image(*, width: Side = 512, height: Side = 512, batch_size: BatchSize = 1) -> Latent:
    """A batch of latents to be filled by sampling; sizes in pixels."""
    return Latent(torch.zeros([batch_size, 4, height // 8, width // 8]))


@node("SetLatentNoiseMask", category="latent/inpaint", display_name="Set Latent Noise Mask")
def set_latent_noise_mask(*, samples: Latent, mask: Mask) -> Latent:
    """Sample only where the mask is 1."""
    return replace(samples, noise_mask=mask.reshape((-1, 1, mask.shape[-2], mask.shape[-1])))


@node("LatentUpscale", category="latent", display_name="Upscale Latent")
def latent_upscale(
    *,
    samples: Latent,
    upscale_method: Annotated[str, Choice(LATENT_METHODS)],
    width: NewSide = 512,
    height: NewSide = 512,
    crop: Annotated[str, Choice(CROPS)],
) -> Latent:
    """Resize to a size in pixels; a side of 0 follows from the other."""
    if width == 0 and height == 0:
        return samples
    old_height, old_width = samples.samples.shape[-2:]
    if width == 0:
        height = max(64, height)
        width = max(64, round(old_width * height / old_height))
    elif height == 0:
        width = max(64, width)
        height = max(64, round(old_height * width / old_width))
    # The smallest latent side is 8, as ComfyUI has it.
    wide, high = max(64, width) // 8, max(64, height) // 8
    return replace(samples, samples=resize(samples.samples, wide, high, upscale_method, crop))


@node("LatentUpscaleBy", category="latent", display_name="Upscale Latent By")
def latent_upscale_by(
    *,
    samples: Latent,
    upscale_method: Annotated[str, Choice(LATENT_METHODS)],
    scale_by: Annotated[float, Float(0.01, 8.0, step=0.01)] = 1.5,
) -> Latent:
    """Resize by a factor."""
    height, width = samples.samples.shape[-2:]
    sized = resize(samples.samples, round(width * scale_by), round(height * scale_by), upscale_method)
    return replace(samples, samples=sized)
