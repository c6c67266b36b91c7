"""Kernels of a CPU: the same numbers as torch's own choice gives, to rounding, sooner.

torch multiplies float32 matrices with MKL, which on AMD's processors runs at half the speed that oneDNN gets
out of them (BENCHMARKS.md, "Forward passes"); on Intel's the two are equal. oneDNN takes the weights as they
are, so nothing is copied or packed.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_ONEDNN = (
    torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x [..., in] by weight [out, in], plus bias [out]: [..., out]."""
    if not _suits(x, weight):
        return F.linear(x, weight, bias)
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 1x1 convolution of x [R, in, H, W] by weight [out, in, 1, 1]: [R, out, H, W].

    On one thread torch has no fast convolution of this kind, so it is done as a product of matrices.
    """
    if not _suits(x, weight):
        return F.conv2d(x, weight, bias)
    places = x.permute(0, 2, 3, 1).contiguous()  # no copy where x is channels-last
    return linear(places, weight.flatten(1), bias).permute(0, 3, 1, 2)


def _suits(x: Tensor, weight: Tensor) -> bool:
    """oneDNN's product has no derivative, and is measured for float32 alone."""
    return (
        _ONEDNN
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() > 0
        and not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))
    )


def fold(weight: Tensor) -> Tensor:
    """A 3x3 kernel that follows a doubling of the picture -> four 2x2 kernels on the picture itself.

    Neighbours in the doubled picture that are equal need one product: 16 for four pixels instead of 36.
    Args: weight [out, in, 3, 3]. Returns: [2, 2, out, in, 2, 2], by parity of the output's row and column.
    """
    sums = torch.tensor([[[1.0, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], device=weight.device)
    folded = torch.einsum("ayk,bxl,oikl->aboiyx", sums, sums, weight.float())
    return folded.to(weight.dtype)


def doubled(x: Tensor, folded: Tensor, bias: Tensor | None) -> Tensor:
    """A convolution of x [R, in, H, W] doubled, [R, out, 2H, 2W] channels-last. folded: by `fold`."""
    rows, _, height, width = x.shape
    out = x.new_empty(rows, 2 * height, 2 * width, folded.shape[2]).permute(0, 3, 1, 2)
    for row in (0, 1):
        for column in (0, 1):
            padded = F.pad(x, (1 - column, column, 1 - row, row))
            out[..., row::2, column::2] = F.conv2d(padded, folded[row, column], bias)
    return out
