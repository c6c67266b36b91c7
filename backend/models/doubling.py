"""A 3x3 convolution behind a doubling of the picture, with a quarter of its products.

In one direction: be x[i] a pixel, that is doubled, and a, b, c the kernel. The two outputs over it are

    a x[i-1] + b x[i] + c x[i]   = (a + b + c) x[i] + a (x[i-1] - x[i])
    a x[i]   + b x[i] + c x[i+1] = (a + b + c) x[i] + c (x[i+1] - x[i])

So three products for two outputs, and the differences are the same for neighbours, but for their sign. In
both directions these are nine products for four outputs, instead of 36, or of 16 with folded kernels.
"""

from collections.abc import Iterator
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from backend.models.kernels import linear

_PLACES = 2048  # at a time: a product of fewer is slow, and of more isn't faster


def doubled(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x [R, in, H, W], doubled, by weight [out, in, 3, 3]: [R, out, 2H, 2W], channels-last."""
    rows, _, height, width = x.shape
    outputs = len(weight)
    plain, across, down, both = torch.split(
        _kernels(weight), [outputs, 2 * outputs, 2 * outputs, 4 * outputs]
    )
    out = x.new_empty(rows, height, 2, width, 2, outputs)
    places = x.permute(0, 2, 3, 1)
    for maps, top, bottom in _pieces(rows, height, width):
        lines = places[maps, max(0, top - 1) : bottom + 1]
        region = F.pad(lines, (0, 0, 1, 1, int(top == 0), int(bottom == height)))
        own, inner = region[:, 1:-1], region[:, :, 1:-1]
        sums = linear(own[:, :, 1:-1], plain, bias)
        by_column = torch.unflatten(linear(own.diff(dim=2), across, None), -1, (2, outputs))
        by_line = torch.unflatten(linear(inner.diff(dim=1), down, None), -1, (2, outputs))
        by_both = torch.unflatten(linear(region.diff(dim=1).diff(dim=2), both, None), -1, (2, 2, outputs))
        into, count = out[maps, top:bottom], bottom - top
        for row in (0, 1):
            half = sums + by_line[:, row : row + count, :, row]
            for column in (0, 1):
                whole = half + by_column[:, :, column : column + width, column]
                rest = by_both[:, row : row + count, column : column + width, row, column]
                torch.add(whole, rest, out=into[:, :, row, :, column])
    return out.view(rows, 2 * height, 2 * width, outputs).permute(0, 3, 1, 2)


def _pieces(rows: int, height: int, width: int) -> Iterator[tuple[slice, int, int]]:
    """Some maps at a time, or some lines of one: which maps, and their lines from where to where."""
    together, step = max(1, _PLACES // (height * width)), max(1, _PLACES // width)
    for row in range(0, rows, together):
        for top in range(0, height, step):
            yield slice(row, row + together), top, min(top + step, height)


def _kernels(weight: Tensor) -> Tensor:
    """[9 * out, in]: one without differences, two between columns, two between lines, four between both."""
    outputs, inputs = weight.shape[:2]
    spots = weight.permute(2, 3, 0, 1).reshape(9, outputs * inputs)
    return torch.mm(_sums(), spots).view(9 * outputs, inputs)


@cache
def _sums() -> Tensor:
    """[9, 9]: what the kernels of `_kernels` take of each place of a 3x3 kernel."""
    one = torch.tensor([[1.0, 1, 1], [-1, 0, 0], [0, 0, 1]])  # in one direction: the sum, minus a, c
    lines_then_columns = torch.kron(one, one)
    return lines_then_columns[[0, 1, 2, 3, 6, 4, 5, 7, 8]]
