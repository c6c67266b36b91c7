"""Classifier-free guidance and its relatives, as functions of denoised predictions of equal shape [B,
...].
"""

import math

import torch
from torch import Tensor


def needs_uncond(scale: float, forced: bool = False) -> bool:
    """The unconditional prediction has a part in the result. forced: a CFG++ sampler asks for it anyway."""
    return forced or not math.isclose(scale, 1.0)


def cfg(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """arXiv:2207.12598, eq. (6), on denoised predictions: scale 1 is `cond`."""
    return uncond + (cond - uncond) * scale


def dual_cfg(cond: Tensor, middle: Tensor, negative: Tensor, scale: float, middle_scale: float) -> Tensor:
    """Two guidances in a row, as InstructPix2Pix steers by text and image: arXiv:2211.09800, eq. (3)."""
    return cfg(middle, negative, middle_scale) + (cond - middle) * scale


def nested_cfg(cond: Tensor, middle: Tensor, negative: Tensor, scale: float, middle_scale: float) -> Tensor:
    """Guidance away from `negative` towards the result of the guidance from `middle` to `cond`."""
    return cfg(cfg(cond, middle, scale), negative, middle_scale)


def stacked(guided: Tensor, uncond: Tensor | None) -> Tensor:
    """The answer to a request with `uncond`: [2, B, ...]. A guider without a negative gives zeros for it."""
    return torch.stack([guided, torch.zeros_like(guided) if uncond is None else uncond])


def perp_neg(
    positive: Tensor, negative: Tensor, empty: Tensor, negative_scale: float, scale: float
) -> Tensor:
    """Guidance away from what is in `negative` and not in `positive`: arXiv:2304.04968, eq. (8).

    Lengths and products are taken over the whole batch, as ComfyUI does.
    """
    towards, away = positive - empty, negative - empty
    along: Tensor = (away * towards).sum() / towards.norm() ** 2
    return empty + (towards - (away - along * towards) * negative_scale) * scale


def rescaled_cfg(
    cond: Tensor, uncond: Tensor, scale: float, x: Tensor, sigma: Tensor, multiplier: float
) -> Tensor:
    """cfg on the predictions as v, with the deviation of `cond`: arXiv:2305.08891, eqs. (15) and (16).

    x: what was denoised, at noise level sigma (0-dim).
    """
    root = (sigma**2 + 1.0) ** 0.5
    kept = x / (sigma * sigma + 1.0)
    to, away = ((kept - estimate) * root / sigma for estimate in (cond, uncond))
    guided = cfg(to, away, scale)
    axes = (1, 2, 3)
    rescaled = guided * (to.std(dim=axes, keepdim=True) / guided.std(dim=axes, keepdim=True))
    v = multiplier * rescaled + (1.0 - multiplier) * guided
    return kept - v * sigma / root


def blurred_where_seen(x: Tensor, attention: Tensor, deviation: float) -> Tensor:
    """x [B, C, H, W], blurred where the network's middle looks: arXiv:2210.00939, section 4.2.

    attention [B, n]: what each of n places, row by row, got from all others together; above 1 is blurred.
    """
    height, width = x.shape[2:]
    count = attention.shape[1]
    rows = _divisor_near(count, round(math.sqrt(height / width * count)))
    mask = (attention > 1.0).reshape(-1, 1, rows, count // rows).to(x.dtype)
    mask = torch.nn.functional.interpolate(mask, (height, width))
    return _blurred(x, deviation) * mask + x * (1 - mask)


def _divisor_near(total: int, wanted: int) -> int:
    """The divisor of `total` nearest to `wanted`; the larger of two."""
    divisors = [n for n in range(1, total + 1) if total % n == 0]
    return min(divisors, key=lambda n: (abs(n - wanted), -n))


def _blurred(x: Tensor, deviation: float, size: int = 9) -> Tensor:
    """A Gaussian blur of `size` places a side, mirrored at the edges."""
    place = torch.linspace(-(size - 1) / 2, (size - 1) / 2, size)
    line = torch.exp(-0.5 * (place / deviation) ** 2)
    line = (line / line.sum()).to(x)
    kernel = (line[:, None] @ line[None, :]).expand(x.shape[1], 1, size, size)
    padded = torch.nn.functional.pad(x, [size // 2] * 4, mode="reflect")
    return torch.nn.functional.conv2d(padded, kernel, groups=x.shape[1])
