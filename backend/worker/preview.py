"""A latent as the small picture that clients see while it is sampled."""

import io
from collections.abc import Callable

import torch
from PIL import Image, ImageOps
from torch import Tensor

from backend.models.latent import LatentFormat
from backend.models.preview import latent_to_rgb
from backend.values import frozen

_QUALITY = 95


@frozen
class Shown:
    """How a run is shown: in a square of `size` pixels; decode: by a tiny autoencoder (None: by colours
    alone).
    """

    size: int
    decode: Callable[[Tensor], Tensor] | None = None


def jpeg(latent: Tensor | None, format: LatentFormat, shown: Shown) -> bytes | None:
    """The first of a batch of latents in the model's units, [B, C, (T,) h, w], as a JPEG.

    It is fitted into the square, small ones enlarged. None where the family has no colours.
    """
    if latent is None or not format.rgb:
        return None
    first = latent[0] if latent.ndim == 4 else latent[0, :, 0]
    colours = latent_to_rgb(first, format) if shown.decode is None else _decoded(first, shown.decode)
    image = Image.fromarray(colours.numpy())
    stream = io.BytesIO()
    fitted = ImageOps.contain(image, (shown.size, shown.size), Image.Resampling.BILINEAR)
    fitted.save(stream, "JPEG", quality=_QUALITY)
    return stream.getvalue()


def _decoded(latent: Tensor, decode: Callable[[Tensor], Tensor]) -> Tensor:
    """[C, h, w] -> uint8 [H, W, 3] on the CPU."""
    pixels = decode(latent[None])[0].movedim(0, -1)
    return ((pixels + 1.0) * 127.5).clamp(0, 255).to(torch.uint8).cpu()
