"""UNets that are shown a picture beside the latent: a masked one to inpaint, or a whole one to change."""

import torch
from torch import Tensor

from backend.models.conditioning import NO_INPUTS, Given, Inputs, at_size
from backend.models.latent import LatentFormat

CONCAT_IMAGE, CONCAT_MASK = "concat_latent_image", "concat_mask"  # ComfyUI's names of the options
OPTIONS = frozenset({CONCAT_IMAGE, CONCAT_MASK})
PLAIN = 4  # input channels: the latent; 8: a picture beside it; 9: a mask and a picture
BLANK = (0.8223, -0.6876, 0.6364, 0.1380)  # a grey image in the model's units: what is shown without one


def shown(given: Given, in_channels: int, format: LatentFormat, scaled: bool = False) -> Inputs:
    """What a network of so many input channels sees beside the latent: `concat`, or nothing.

    scaled: an InstructPix2Pix's picture is in the model's units, not the VAE's.
    """
    match in_channels:
        case 9:
            picture = masked_picture(given, format)
            return NO_INPUTS if picture is None else Inputs(placed={"concat": picture})
        case 8:
            return Inputs(placed={"concat": _picture(given, format, scaled)})
        case _:
            return NO_INPUTS


def beside(x: Tensor, in_channels: int, concat: Tensor | None) -> Tensor:
    """x [R, C, H, W] with `concat` behind its channels, where the network takes it. None: a blank picture."""
    if in_channels == PLAIN:
        return x
    return torch.cat([x, blank_picture(x) if concat is None else concat], dim=1)


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


def blank_picture(x: Tensor) -> Tensor:
    """Mask 1 everywhere, and grey beneath it, for x [R, C, H, W]: [R, 1 + C, H, W]."""
    colour = torch.tensor(BLANK, device=x.device, dtype=x.dtype)[None, :, None, None]
    return torch.cat([torch.ones_like(x[:, :1]), colour.expand_as(x)], dim=1)


def _picture(given: Given, format: LatentFormat, scaled: bool) -> Tensor:
    image = given.tensor(CONCAT_IMAGE)
    if image is None:
        return torch.zeros_like(given.latent)
    picture = at_size(image.float(), given.latent)
    return format.to_model(picture) if scaled else picture
