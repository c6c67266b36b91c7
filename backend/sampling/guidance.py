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
