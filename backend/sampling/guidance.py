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


def renormed_cfg(cond: Tensor, uncond: Tensor, scale: float, limit: float) -> Tensor:
    """cfg, each row's norm at most `limit` times that of `cond`; 0: any."""
    guided = cfg(cond, uncond, scale)
    if limit <= 0:
        return guided
    axes = tuple(range(1, cond.ndim))
    most, norm = (torch.linalg.vector_norm(v, dim=axes, keepdim=True) for v in (cond, guided))
    most = most * limit
    return torch.where(norm >= most, guided * (most / norm), guided)


def row_scales(rows: int, least: float, scale: float, triangle: bool) -> Tensor:
    """A guidance scale for each row [rows]: from `least` to `scale`, or there in the middle and back."""
    if not triangle:
        return torch.linspace(least, scale, rows)
    place = torch.linspace(0, 1, rows)
    scales: Tensor = 2 * (place - torch.floor(place + 0.5)).abs() * (scale - least) + least
    return scales


def tangentially_damped(cond: Tensor, uncond: Tensor) -> Tensor:
    """`uncond` [B, ...] without what is across the main direction of each row's pair: arXiv:2503.18137."""
    pair = torch.stack([uncond.flatten(1), cond.flatten(1)], dim=1).float()
    main = torch.linalg.svd(pair, full_matrices=False).Vh[:, :1]
    along = (pair[:, :1] @ main.transpose(1, 2)) * main
    damped: Tensor = along.reshape(uncond.shape).to(uncond.dtype)
    return damped


def projected(guidance: Tensor, cond: Tensor, eta: float, threshold: float) -> Tensor:
    """A guidance of limited norm, its part along `cond` scaled: arXiv:2410.02416, eqs. (5) to (8)."""
    axes = (-1, -2, -3)
    if threshold > 0:
        norm = guidance.norm(p=2, dim=axes, keepdim=True)
        guidance = guidance * torch.minimum(torch.ones_like(norm), threshold / norm)
    unit = cond / cond.norm(p=2, dim=axes, keepdim=True).clamp_min(1e-12)
    along = (guidance * unit).sum(dim=axes, keepdim=True) * unit
    changed: Tensor = guidance - along + eta * along
    return changed


def frequencies_scaled(x: Tensor, low: float, high: float, cutoff: int) -> Tensor:
    """x [B, C, H, W] (or [B, C, T, H, W]) with its low and high frequencies scaled.

    Low are the middle `cutoff` frequencies each way, in all axes behind the channels.
    """
    waves = torch.fft.fftshift(torch.fft.fftn(x.float(), dim=(-2, -1)), dim=(-2, -1))
    factors = torch.full(waves.shape, high, device=x.device)
    middle = factors
    for axis in range(2, x.ndim):
        centre = x.shape[axis] // 2
        reach = min(cutoff, centre)
        middle = middle.narrow(axis, centre - reach, 2 * reach)
    middle.fill_(low)
    waves = torch.fft.ifftshift(waves * factors, dim=(-2, -1))
    scaled: Tensor = torch.fft.ifftn(waves, dim=(-2, -1)).real.to(x.dtype)
    return scaled


def zero_star(guided: Tensor, cond: Tensor, uncond: Tensor, x: Tensor, scale: float) -> Tensor:
    """The guided result as if the unconditional noise had been scaled to fit: arXiv:2503.18886, eq. (8)."""
    positive, negative = (x - cond).flatten(1), (x - uncond).flatten(1)
    fit = (positive * negative).sum(1, keepdim=True) / ((negative**2).sum(1, keepdim=True) + 1e-8)
    fit = fit.reshape(-1, *[1] * (x.ndim - 1))
    return guided + uncond * (fit - 1.0) + scale * uncond * (1.0 - fit)


def length_limited(guided: Tensor, cond: Tensor, strength: float) -> Tensor:
    """Its length over the channels at each place at most that of `cond`, then times `strength`."""
    lengths = cond.norm(dim=1, keepdim=True) / (guided.norm(dim=1, keepdim=True) + 1e-8)
    limited: Tensor = guided * lengths.clamp(min=0.0, max=1.0) * strength
    return limited


def mahiro(guided: Tensor, cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """Between the scaled `cond` and the guided result, by how alike their signed roots are.

    The likeness is one number for the whole batch, as ComfyUI has it.
    """
    leap = cond * scale
    roots = [v.abs().sqrt() * v.sign() for v in (uncond * scale, (leap + guided) / 2)]
    alike = 2 * (torch.nn.functional.cosine_similarity(roots[0], roots[1], dim=1).mean() + 1)
    return (alike * guided + (4 - alike) * leap) / 4


def deviation_rescaled(guided: Tensor, cond: Tensor, rescale: float) -> Tensor:
    """With the deviation of `cond`, as far as `rescale` (0..1) says."""
    return guided * (rescale * (cond.std() / guided.std()) + (1 - rescale))


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
