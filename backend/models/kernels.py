"""Kernels of a CPU: the same numbers as torch's own choice gives, to rounding, sooner.

torch multiplies float32 matrices with MKL, which on AMD's processors runs at half the speed that oneDNN gets
out of them (BENCHMARKS.md, "Forward passes"); on Intel's the two are equal. oneDNN takes the weights as they
are, so nothing is copied or packed.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

_ONEDNN = (
    torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)
_FEW = 512  # places of a convolution's output, in all rows; measured with 320 to 1280 channels


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x [..., in] by weight [out, in], plus bias [out]: [..., out]."""
    if not suits(x, weight):
        return F.linear(x, weight, bias)
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 1x1 convolution of x [R, in, H, W] by weight [out, in, 1, 1]: [R, out, H, W].

    On one thread torch has no fast convolution of this kind, so it is done as a product of matrices.
    """
    if not suits(x, weight):
        return F.conv2d(x, weight, bias)
    places = x.permute(0, 2, 3, 1).contiguous()  # no copy where x is channels-last
    return linear(places, weight.flatten(1), bias).permute(0, 3, 1, 2)


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
) -> Tensor:
    """A convolution of x [R, in, H, W] by weight [out, in, h, w]: [R, out, H', W'].

    Of few places, as a product of matrices: oneDNN's convolutions have two thirds of that speed then.
    With the channels last, windows are copied in long runs, and the weights not at all.
    """
    if not suits(x, weight):
        return F.conv2d(x, weight, bias, stride, padding)
    height, width = ((side + 2 * p - k) // s + 1 for side, p, k, s in _sides(x, weight, stride, padding))
    last = weight.is_contiguous(memory_format=torch.channels_last)
    if not (last and 0 < len(x) * height * width <= _FEW):
        return F.conv2d(x, weight, bias, stride, padding)
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, padding[1], padding[1], padding[0], padding[0]))
    windows = padded.unfold(1, weight.shape[2], stride[0]).unfold(2, weight.shape[3], stride[1])
    columns = windows.permute(0, 1, 2, 4, 5, 3).reshape(len(x) * height * width, -1)
    out = linear(columns, weight.permute(0, 2, 3, 1).reshape(len(weight), -1), bias)
    return out.reshape(len(x), height, width, -1).permute(0, 3, 1, 2)


def _sides(
    x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]
) -> Iterator[tuple[int, int, int, int]]:
    return zip(x.shape[2:], padding, weight.shape[2:], stride, strict=True)


def suits(x: Tensor, weight: Tensor) -> bool:
    """Whether these kernels take it: they have no derivative, and are measured for float32 alone."""
    return (
        _ONEDNN
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() > 0
        and not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))
    )
