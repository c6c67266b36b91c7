"""Resizing of batches [B, C, H, W], pixels or latents, by ComfyUI's method names."""

from typing import TYPE_CHECKING

from backend.deferred import torch
from backend.media import resize_lanczos, to_floats, to_pixels

if TYPE_CHECKING:
    from torch import Tensor

IMAGE_METHODS = ("nearest-exact", "bilinear", "area", "bicubic", "lanczos")
LATENT_METHODS = ("nearest-exact", "bilinear", "area", "bicubic", "bislerp")
CROPS = ("disabled", "center")


def resize(samples: "Tensor", width: int, height: int, method: str, crop: str = "disabled") -> "Tensor":
    """[B, C, H, W] (or [B, C, T, H, W], frame by frame) -> the same with `height` and `width`.

    crop "center" first cuts the middle part that has the new aspect ratio.
    """
    if width < 1 or height < 1:
        raise ValueError(
            f"Can't resize to {width} x {height}: both sides must be at least 1. Raise the size."
        )
    if samples.ndim == 5:
        frames = samples.movedim(2, 1)
        sized = resize(frames.flatten(0, 1), width, height, method, crop)
        return sized.reshape(*frames.shape[:3], height, width).movedim(1, 2)
    if crop == "center":
        samples = centre_crop(samples, width, height)
    if method == "bislerp":
        return bislerp(samples, width, height)
    if method == "lanczos":
        return _lanczos(samples, width, height)
    return torch.nn.functional.interpolate(samples, size=(height, width), mode=method)


def centre_crop(samples: "Tensor", width: int, height: int) -> "Tensor":
    """The largest middle part with the aspect ratio width / height."""
    old_height, old_width = samples.shape[-2:]
    old, new = old_width / old_height, width / height
    left = round((old_width - old_width * (new / old)) / 2) if old > new else 0
    top = round((old_height - old_height * (old / new)) / 2) if old < new else 0
    return samples[..., top : old_height - top, left : old_width - left]


def _lanczos(samples: "Tensor", width: int, height: int) -> "Tensor":
    """Through 8-bit pixels, as ComfyUI does it."""
    pixels = to_pixels(samples.movedim(1, -1).contiguous().numpy())
    sized = torch.stack([torch.from_numpy(to_floats(resize_lanczos(p, width, height))) for p in pixels])
    return sized.movedim(-1, 1)


def bislerp(samples: "Tensor", width: int, height: int) -> "Tensor":
    """Bilinear in position, spherical in value: neighbouring latent vectors are turned into each other.

    Keeps the vectors' lengths, which plain averaging shortens.
    """
    return _slerp_axis(_slerp_axis(samples.float(), width, -1), height, -2).to(samples.dtype)


def _slerp_axis(samples: "Tensor", size: int, dim: int) -> "Tensor":
    """Resize one axis of [B, C, H, W]; the vectors are the channels."""
    length = samples.shape[dim]
    ramp = torch.arange(length, dtype=torch.float32)
    # Where each new point lies between old ones, by torch's own bilinear rule: the rounding of these decides
    # which two points are mixed, so it must be the same as the reference's.
    position = _stretch(ramp, size)
    after = _stretch((ramp + 1).clamp(max=length - 1), size).long()
    before = position.floor()
    share = (position - before).reshape((-1, 1) if dim == -2 else (-1,))
    first, second = samples.index_select(dim, before.long()), samples.index_select(dim, after)
    return _slerp(first, second, share)


def _stretch(line: "Tensor", size: int) -> "Tensor":
    return torch.nn.functional.interpolate(line[None, None, None], size=(1, size), mode="bilinear").flatten()


def _slerp(first: "Tensor", second: "Tensor", share: "Tensor") -> "Tensor":
    """From `first` (share 0) to `second` (share 1) along the arc, lengths in proportion. Vectors: dim 1."""
    length_1, length_2 = first.norm(dim=1, keepdim=True), second.norm(dim=1, keepdim=True)
    unit_1 = torch.where(length_1 == 0, 0.0, first / length_1)
    unit_2 = torch.where(length_2 == 0, 0.0, second / length_2)
    cosine = (unit_1 * unit_2).sum(1, keepdim=True)
    angle = torch.acos(cosine)
    turned = (torch.sin((1 - share) * angle) * unit_1 + torch.sin(share * angle) * unit_2) / torch.sin(angle)
    turned = turned * (length_1 * (1 - share) + length_2 * share)
    straight = first * (1 - share) + second * share
    turned = torch.where(cosine > 1 - 1e-5, first, turned)  # the same direction: the arc has no length
    return torch.where(cosine < 1e-5 - 1, straight, turned)  # opposite: every arc is as good
