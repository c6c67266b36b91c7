"""Pasting of one batch of pictures or latents into another, as ComfyUI's mask nodes do it."""

import torch
from torch import Tensor


def composite(
    destination: Tensor,
    source: Tensor,
    x: int,
    y: int,
    mask: Tensor | None = None,
    multiplier: int = 8,
    resize_source: bool = False,
) -> Tensor:
    """`source` over `destination` [B, C, H, W] at (x, y) pixels, where `mask` [B, h, w] is 1.

    multiplier: pixels of one place; resize_source: to the destination's size first.
    """
    source = source.to(destination.device)
    if resize_source:
        source = torch.nn.functional.interpolate(source, destination.shape[-2:], mode="bilinear")
    source = _rows(source, len(destination))
    height, width = source.shape[-2:]
    left = max(-width * multiplier, min(x, destination.shape[-1] * multiplier)) // multiplier
    top = max(-height * multiplier, min(y, destination.shape[-2] * multiplier)) // multiplier
    shown = torch.ones_like(source[:, :1]) if mask is None else _fitted(mask.to(source), source)
    ends = (min(top + height, destination.shape[-2]), min(left + width, destination.shape[-1]))
    rows, columns = slice(max(top, 0), ends[0]), slice(max(left, 0), ends[1])
    cut = (..., slice(rows.start - top, ends[0] - top), slice(columns.start - left, ends[1] - left))
    made = destination.clone()
    kept = made[..., rows, columns]
    made[..., rows, columns] = shown[cut] * source[cut] + (1.0 - shown[cut]) * kept
    return made


def _fitted(mask: Tensor, source: Tensor) -> Tensor:
    mask = mask.reshape(-1, 1, *mask.shape[-2:])
    mask = torch.nn.functional.interpolate(mask, source.shape[-2:], mode="bilinear")
    return _rows(mask, len(source))


def _rows(value: Tensor, count: int) -> Tensor:
    return value.repeat(-(-count // len(value)), 1, 1, 1)[:count]
