"""UNets that are shown a masked picture beside the latent: inpainting models, and InstructPix2Pix."""

import torch
from torch import Tensor

from backend.models.conditioning import Given, at_size
from backend.models.latent import LatentFormat

CONCAT_IMAGE, CONCAT_MASK = "concat_latent_image", "concat_mask"  # ComfyUI's names of the options
OPTIONS = frozenset({CONCAT_IMAGE, CONCAT_MASK})


def masked_picture(given: Given, format: LatentFormat) -> Tensor | None:
    """Mask and masked latent, [B, 1 + C, h, w] in the model's units; None: a blank picture."""
    latent = given.latent
    mask = given.tensor(CONCAT_MASK)
    mask = given.mask if mask is None else mask
    if mask is None:
        return None
    image = given.tensor(CONCAT_IMAGE)
    picture = at_size(latent if image is None else format.to_model(image.float()), latent)
    mask = mask[:, :1] if mask.ndim == latent.ndim else mask
    mask = at_size(mask.reshape(-1, 1, *mask.shape[-2:]), latent).round()
    return torch.cat([mask, picture.to(mask)], dim=1)


def blank_picture(x: Tensor, grey: tuple[float, ...]) -> Tensor:
    """Mask 1 everywhere, and grey beneath it, for x [R, C, H, W]: [R, 1 + C, H, W]."""
    colour = torch.tensor(grey, device=x.device, dtype=x.dtype)[None, :, None, None]
    return torch.cat([torch.ones_like(x[:, :1]), colour.expand_as(x)], dim=1)
