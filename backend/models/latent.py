"""What a family's latents are: channels, scale, and colours for previews."""

from typing import TypeAlias

import torch
from torch import Tensor

from backend.values import frozen

PerChannel: TypeAlias = float | tuple[float, ...]  # one number for all channels, or one for each


@frozen
class LatentFormat:
    """downscale: pixels per latent pixel; a model's units are (latent - shift) * scale.

    rgb: per channel its red, green and blue, a linear fit of what the VAE decodes, in -1..1; rgb_bias added.
    dimensions: 3 where latents have frames, [B, C, T, H, W]; tiny: its tiny autoencoder, for quick previews.
    """

    channels: int
    downscale: int
    scale: PerChannel
    shift: PerChannel = 0.0
    rgb: tuple[tuple[float, float, float], ...] = ()
    rgb_bias: tuple[float, float, float] = (0.0, 0.0, 0.0)
    dimensions: int = 2
    tiny: str = ""

    def to_model(self, samples: Tensor) -> Tensor:
        """LATENT's units (the VAE's own) -> the units that are sampled in."""
        return (samples - _channels(self.shift, samples)) * _channels(self.scale, samples)

    def from_model(self, samples: Tensor) -> Tensor:
        return samples / _channels(self.scale, samples) + _channels(self.shift, samples)


def _channels(value: PerChannel, like: Tensor) -> Tensor | float:
    """For a tensor [B, C, ...]."""
    if isinstance(value, float | int):
        return value
    return torch.tensor(value, device=like.device, dtype=like.dtype).reshape(1, -1, *[1] * (like.ndim - 2))
