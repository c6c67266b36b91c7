"""A latent as the small picture that clients see while it is sampled."""

import io

from PIL import Image, ImageOps
from torch import Tensor

from backend.models.latent import LatentFormat
from backend.models.preview import latent_to_rgb

_QUALITY = 95


def jpeg(latent: Tensor | None, format: LatentFormat, size: int) -> bytes | None:
    """The first of a batch of latents in the model's units, [B, C, (T,) h, w], as a JPEG.

    It is fitted into a square of `size` pixels, small ones enlarged. None where the family has no colours.
    """
    if latent is None or not format.rgb:
        return None
    first = latent[0] if latent.ndim == 4 else latent[0, :, 0]
    image = Image.fromarray(latent_to_rgb(first, format).numpy())
    stream = io.BytesIO()
    ImageOps.contain(image, (size, size), Image.Resampling.BILINEAR).save(stream, "JPEG", quality=_QUALITY)
    return stream.getvalue()
