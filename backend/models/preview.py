"""Previews without a VAE: a linear map from latent channels to colours."""

import torch
from torch import Tensor

from backend.models.latent import LatentFormat


def latent_to_rgb(latent: Tensor, format: LatentFormat) -> Tensor:
    """A latent in the model's units, [C, h, w] -> uint8 [h, w, 3] on the CPU, one pixel per latent pixel.

    Raises: ValueError where the channels are not the format's.
    """
    if latent.shape[0] != len(format.rgb):
        raise ValueError(
            f"a latent of {latent.shape[0]} channels has no preview: {len(format.rgb)} have colours"
        )
    factors = torch.tensor(format.rgb, device=latent.device, dtype=torch.float32)
    bias = torch.tensor(format.rgb_bias, device=latent.device, dtype=torch.float32)
    colours = torch.einsum("chw,cr->hwr", latent.float(), factors) + bias
    return ((colours + 1.0) * 127.5).clamp(0, 255).to(torch.uint8).cpu()
