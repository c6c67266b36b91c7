"""What a family's latents are: channels, scale, and colours for previews."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class LatentFormat:
    """downscale: pixels per latent pixel; a model's units are (latent - shift) * scale.

    rgb: per channel its red, green and blue, a linear fit of what the VAE decodes, in -1..1; rgb_bias added.
    """

    channels: int
    downscale: int
    scale: float
    shift: float = 0.0
    rgb: tuple[tuple[float, float, float], ...] = ()
    rgb_bias: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def to_model(self, samples: Tensor) -> Tensor:
        """LATENT's units (the VAE's own) -> the units that are sampled in."""
        return (samples - self.shift) * self.scale

    def from_model(self, samples: Tensor) -> Tensor:
        return samples / self.scale + self.shift
