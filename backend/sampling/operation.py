"""Operations on latents [B, C, H, W] that nodes describe as data."""

import torch
from torch import Tensor

from backend.latent_operations import Sharpen, Tonemap


def operated(operation: Tonemap | Sharpen, latent: Tensor) -> Tensor:
    """The latent after an operation; its shape and dtype stay."""
    match operation:
        case Tonemap(multiplier=multiplier):
            return tonemapped(latent, multiplier)
        case Sharpen(radius=radius, sigma=sigma, alpha=alpha):
            return sharpened(latent, radius, sigma, alpha)


def tonemapped(latent: Tensor, multiplier: float) -> Tensor:
    """Each vector's length l becomes l / (l / top + 1); top: five deviations above the mean length, times
    `multiplier`. Source: Reinhard et al., "Photographic Tone Reproduction", 2002, eq. (3).
    """
    length = torch.linalg.vector_norm(latent, dim=1, keepdim=True) + 1e-10
    axes = (1, 2, 3)
    top = (length.std(dim=axes, keepdim=True) * 5 + length.mean(dim=axes, keepdim=True)) * multiplier
    scaled = length * (1.0 / top)
    toned: Tensor = latent / length * (scaled / (scaled + 1.0) * top)
    return toned


def sharpened(latent: Tensor, radius: int, sigma: float, alpha: float) -> Tensor:
    """Unsharp masking of the vectors' directions, mirrored at the edges."""
    if radius >= min(latent.shape[-2:]):
        size = f"{latent.shape[-1]} x {latent.shape[-2]}"
        raise ValueError(f"sharpen_radius {radius} is too large for a latent of {size}: reduce it.")
    length = torch.linalg.vector_norm(latent, dim=1, keepdim=True) + 1e-6
    channels = latent.shape[1]
    kernel = _gaussian(radius, sigma).to(latent) * (alpha * -10)
    kernel[radius, radius] += 1.0 - kernel.sum()
    padded = torch.nn.functional.pad(latent / length, (radius,) * 4, mode="reflect")
    kernels = kernel.expand(channels, 1, *kernel.shape)
    ways = torch.nn.functional.conv2d(padded, kernels, groups=channels)
    sharp: Tensor = length * ways
    return sharp


def _gaussian(radius: int, sigma: float) -> Tensor:
    line = torch.linspace(-1, 1, 2 * radius + 1)
    distance = torch.sqrt(line[:, None] ** 2 + line**2)
    kernel = torch.exp(-(distance * distance) / (2.0 * sigma * sigma))
    return kernel / kernel.sum()
