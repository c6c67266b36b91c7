"""Large images in overlapping tiles whose edges fade into each other, as ComfyUI cuts them."""

from collections.abc import Callable, Iterator, Sequence
from itertools import product

import torch
from torch import Tensor

EVERY = (slice(None), slice(None))  # row and channel


def tiled(
    samples: Tensor, function: Callable[[Tensor], Tensor], tile: tuple[int, int], overlap: int, scale: float
) -> Tensor:
    """`function` over tiles of `samples`, blended.

    Args: samples [B, C, H, W]; function: [1, C, h, w] -> [1, D, h * scale, w * scale]; tile: (height, width)
        and overlap, in pixels of samples, 0 <= overlap < tile; scale: the result's size over samples'.
    Returns: float32 [B, D, H * scale, W * scale]. Raises: ValueError for a bad overlap.
    """
    return torch.cat([_one(row[None], function, tile, overlap, scale) for row in samples])


def tiled_frames(
    samples: Tensor,
    function: Callable[[Tensor], Tensor],
    tile: tuple[int, int, int],
    overlap: tuple[int, int, int],
    scale: tuple[int, int],
) -> Tensor:
    """The same over frames, [B, C, T, H, W]: tile and overlap are (frames, height, width).

    scale: frames of the result for each but the first of samples, and its size over samples'.
    """
    return torch.cat([_in_frames(row[None], function, tile, overlap, scale) for row in samples])


def _in_frames(
    sample: Tensor,
    function: Callable[[Tensor], Tensor],
    tile: tuple[int, int, int],
    overlap: tuple[int, int, int],
    scale: tuple[int, int],
) -> Tensor:
    steps = (scale[0], scale[1], scale[1])

    def grown(lengths: Sequence[int]) -> tuple[int, ...]:
        return max(0, (lengths[0] - 1) * scale[0] + 1), lengths[1] * scale[1], lengths[2] * scale[1]

    sizes = sample.shape[2:]
    if all(size <= most for size, most in zip(sizes, tile, strict=True)):
        return function(sample).float()
    total = weight = sample.new_zeros(0)
    spans = [list(_spans(*facts)) for facts in zip(sizes, tile, overlap, strict=True)]
    for cut in product(*spans):
        part = function(sample[(*EVERY, *(slice(*span) for span in cut))]).float()
        if not total.numel():
            total = part.new_zeros(1, part.shape[1], *grown(sizes))
            weight = torch.zeros_like(total)
        fade = _fade(part, grown(overlap))
        starts = [begin * step for (begin, _), step in zip(cut, steps, strict=True)]
        ends = [start + size for start, size in zip(starts, part.shape[2:], strict=True)]
        place = (*EVERY, *(slice(start, end) for start, end in zip(starts, ends, strict=True)))
        total[place] += part * fade
        weight[place] += fade
    return total / weight


def _one(
    sample: Tensor, function: Callable[[Tensor], Tensor], tile: tuple[int, int], overlap: int, scale: float
) -> Tensor:
    height, width = sample.shape[-2:]
    if height <= tile[0] and width <= tile[1]:
        return function(sample).float()
    total: Tensor | None = None
    for top, bottom in _spans(height, tile[0], overlap):
        for left, right in _spans(width, tile[1], overlap):
            part = function(sample[..., top:bottom, left:right]).float()
            if total is None:
                size = (1, part.shape[1], round(height * scale), round(width * scale))
                total, weight = part.new_zeros(size), part.new_zeros(size)
            fade = _fade(part, (round(overlap * scale),) * 2)
            rows = slice(round(top * scale), round(top * scale) + part.shape[-2])
            columns = slice(round(left * scale), round(left * scale) + part.shape[-1])
            total[..., rows, columns] += part * fade
            weight[..., rows, columns] += fade
    if total is None:
        raise ValueError(f"an image of {height} x {width} has no tiles")
    return total / weight


def _spans(length: int, tile: int, overlap: int) -> Iterator[tuple[int, int]]:
    """Where the tiles along one side begin and end; the last is cut off at the edge."""
    if length <= tile:
        yield 0, length
        return
    if not 0 <= overlap < tile:
        raise ValueError(f"an overlap of {overlap} does not fit tiles of {tile}: choose larger tiles")
    for start in range(0, length - overlap, tile - overlap):
        yield start, min(start + tile, length)


def _fade(part: Tensor, feathers: Sequence[int]) -> Tensor:
    """A weight for each pixel of a tile: rising over so many pixels from each edge, axis by axis.

    The outermost pixel has 1/feather and not 0, so that the image's own border keeps its value.
    """
    weight = part.new_ones((1,) * part.ndim)
    for axis, feather in enumerate(feathers, start=2):
        ramp = part.new_ones(part.shape[axis])
        if feather < len(ramp):
            rise = (torch.arange(feather, device=part.device, dtype=part.dtype) + 1) / max(feather, 1)
            ramp[:feather] *= rise
            ramp[len(ramp) - feather :] *= rise.flip(0)
        weight = weight * ramp.reshape(-1, *(1,) * (part.ndim - 1 - axis))
    return weight
