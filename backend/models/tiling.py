"""Large images in overlapping tiles whose edges fade into each other, as ComfyUI cuts them."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor


def tiled(
    samples: Tensor, function: Callable[[Tensor], Tensor], tile: tuple[int, int], overlap: int, scale: float
) -> Tensor:
    """`function` over tiles of `samples`, blended.

    Args: samples [B, C, H, W]; function: [1, C, h, w] -> [1, D, h * scale, w * scale]; tile: (height, width)
        and overlap, in pixels of samples, 0 <= overlap < tile; scale: the result's size over samples'.
    Returns: float32 [B, D, H * scale, W * scale]. Raises: ValueError for a bad overlap.
    """
    return torch.cat([_one(row[None], function, tile, overlap, scale) for row in samples])


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
            fade = _fade(part, round(overlap * scale))
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


def _fade(part: Tensor, feather: int) -> Tensor:
    """A weight for each pixel of a tile: rising over `feather` pixels from each edge; [1, 1, h, w].

    The outermost pixel has 1/feather and not 0, so that the image's own border keeps its value.
    """
    ramps = []
    for length in part.shape[-2:]:
        ramp = part.new_ones(length)
        if feather < length:
            rise = (torch.arange(feather, device=part.device, dtype=part.dtype) + 1) / max(feather, 1)
            ramp[:feather] *= rise
            ramp[length - feather :] *= rise.flip(0)
        ramps.append(ramp)
    return ramps[0][:, None].mul(ramps[1])[None, None]
