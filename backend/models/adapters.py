"""Layers whose rows may have changed weights: products beside the layer's own, or weights of their own.

Base weights are never edited.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.models import kernels
from backend.models.blocks import Packing
from backend.models.changes import Delta, Kron
from backend.models.stored import Scratch, is_plain, whole
from backend.values import frozen


@frozen(eq=False)
class SidePath:
    """A change and the rows it is added for. strengths: float32, one per row of `rows`."""

    change: Delta | Kron
    rows: slice
    strengths: Tensor


@frozen(eq=False)
class Weight:
    """A layer's weight and bias, with LoRAs in them or without."""

    weight: Tensor
    bias: Tensor | None


@frozen(eq=False)
class Site:
    """What one layer does in a pass beside its own product.

    others: rows with other weights than the layer's; their products are not made twice.
    """

    paths: tuple[SidePath, ...] = ()
    others: tuple[tuple[slice, Weight], ...] = ()


Sites: TypeAlias = Mapping[str, Site]
# What runs in this call; a context variable, so that two threads may use one module at the same time.
_active: ContextVar[Sites | None] = ContextVar("sites", default=None)


@contextmanager
def applied(sites: Sites) -> Iterator[None]:
    """Within it, the layers named in `sites` do what is said there."""
    token = _active.set(sites or None)
    try:
        yield
    finally:
        _active.reset(token)


def _site(name: str) -> Site | None:
    sites = _active.get()
    return None if sites is None else sites.get(name)


class Linear(nn.Linear):
    """nn.Linear for rows of several users, whose weight may be stored in another form (`stored.py`)."""

    site: str = ""
    scale: Tensor | None  # a buffer
    packing: Packing | None = None
    scratch: Scratch | None = None
    computes: torch.dtype | None = None  # with which dtype, where the weight is stored in another form
    onto: torch.device | None = None  # where it computes, if its weight is kept elsewhere (`offload`)

    def own(self, dtype: torch.dtype) -> Weight:
        """What it computes with. It may stand in memory that the next layer takes over."""
        return _own(self, dtype)

    def forward(self, input: Tensor) -> Tensor:
        here = _site(self.site)
        if here is None:
            own = self.own(input.dtype)
            return kernels.linear(input, own.weight, own.bias)
        shares = _shares(self, here, len(input), input.dtype)
        parts = [kernels.linear(input[rows], w.weight, w.bias) for rows, w in shares]
        out = parts[0] if len(parts) == 1 else torch.cat(parts)
        for path in here.paths:
            _add_linear(out[path.rows], path, input[path.rows])
        return out


class Conv2d(nn.Conv2d):
    """nn.Conv2d for rows of several users, whose weight may be stored in another form (`stored.py`)."""

    site: str = ""
    scale: Tensor | None  # a buffer
    packing: Packing | None = None
    scratch: Scratch | None = None
    computes: torch.dtype | None = None  # with which dtype, where the weight is stored in another form
    onto: torch.device | None = None  # where it computes, if its weight is kept elsewhere (`offload`)

    def own(self, dtype: torch.dtype) -> Weight:
        """What it computes with."""
        return _own(self, dtype)

    @property
    def changed(self) -> bool:
        """Whether rows have other weights than the layer's in this call."""
        return _site(self.site) is not None

    def forward(self, input: Tensor) -> Tensor:
        here = _site(self.site)
        if here is None:
            own = self.own(input.dtype)
            return self._product(input, own.weight, own.bias)
        shares = _shares(self, here, len(input), input.dtype)
        parts = [self._product(input[rows], w.weight, w.bias) for rows, w in shares]
        out = parts[0] if len(parts) == 1 else torch.cat(parts)
        for path in here.paths:
            self._add(out[path.rows], path, input[path.rows])
        return out

    def _product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.groups != 1 or self.dilation != (1, 1) or isinstance(self.padding, str):
            out: Tensor = self._conv_forward(x, weight, bias)
            return out
        stride, padding = (self.stride[0], self.stride[1]), (self.padding[0], self.padding[1])
        if self.kernel_size == stride == (1, 1) and padding == (0, 0):
            return kernels.pointwise(x, weight, bias)
        return kernels.convolution(x, weight, bias, stride, padding)

    def _add(self, out: Tensor, path: SidePath, x: Tensor) -> None:
        """Add a side path to the rows it is for. out [n, C, H, W], the very tensor; x: those rows' input."""
        change, factor = path.change, _factor(path, out)
        if isinstance(change, Kron):
            out.add_(self._kronecker(change, x) * (factor * change.scale))
            return
        if change.down is not None and change.up is not None:
            if change.mid is None:
                inner = self._product(x, change.down, None)
            else:
                inner = self._product(kernels.pointwise(x, change.down, None), change.mid, None)
            inner = (inner * (factor * change.scale)).permute(0, 2, 3, 1)
            _add_product(out.permute(0, 2, 3, 1), inner, change.up.flatten(1))
        if change.weight is not None:
            out.add_(self._product(x, change.weight, None) * factor)
        if change.bias is not None:
            out.add_(change.bias[:, None, None] * factor)

    def _kronecker(self, change: Kron, x: Tensor) -> Tensor:
        """x [n, i1 i2, H, W] -> [n, o1 o2, H', W']: the inner factor as a convolution, then the outer."""
        inputs = change.outer.shape[1]
        split = x.reshape(len(x) * inputs, -1, *x.shape[2:])
        inner = self._product(split, change.inner, None).unflatten(0, (len(x), inputs))  # type: ignore[no-untyped-call]
        return torch.einsum("oi,nichw->nochw", change.outer, inner).flatten(1, 2)


def adapt(module: nn.Module) -> tuple[str, ...]:
    """Put the layers above in the place of a module's own, before it has weights. Returns the sites."""
    sites, scratch = [], Scratch()
    for name, layer in list(module.named_modules()):
        if type(layer) not in (nn.Linear, nn.Conv2d):
            continue
        adapted = _like(layer)
        adapted.site, adapted.scratch = name, scratch
        parent, _, child = name.rpartition(".")
        module.get_submodule(parent).register_module(child, adapted)
        sites.append(name)
    return tuple(sites)


def _like(layer: nn.Linear | nn.Conv2d) -> Linear | Conv2d:
    bias = layer.bias is not None
    made: Linear | Conv2d
    if isinstance(layer, nn.Linear):
        made = Linear(layer.in_features, layer.out_features, bias, device="meta")
    else:
        kernel = (layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding)
        made = Conv2d(*kernel, dilation=layer.dilation, groups=layer.groups, bias=bias, device="meta")  # type: ignore[arg-type]
    made.register_buffer("scale", None)
    return made


def _own(layer: Linear | Conv2d, dtype: torch.dtype) -> Weight:
    if layer.onto is None and is_plain(layer, dtype):
        return Weight(layer.weight, layer.bias)
    bias = None if layer.bias is None else layer.bias.to(dtype)
    return Weight(whole(layer, dtype, layer.scratch, layer.onto), bias)


def offload(module: nn.Module, device: torch.device) -> int:
    """Keep the layers' weights where they are, each to be brought to `device` for its own product; all else
    goes there now.

    Returns: the bytes that lie on the device. Raises: torch.OutOfMemoryError where even these do not fit.
    """
    nbytes = 0
    for parent in module.modules():
        layer = isinstance(parent, Linear | Conv2d)
        for name, value in (*parent.named_parameters(recurse=False), *parent.named_buffers(recurse=False)):
            if layer and name == "weight":
                continue
            value.data = value.data.to(device)
            nbytes += value.nbytes
        if isinstance(parent, Linear | Conv2d) and parent.weight.device != device:
            parent.onto = device
    return nbytes


def _shares(
    layer: Linear | Conv2d, here: Site, rows: int, dtype: torch.dtype
) -> Iterator[tuple[slice, Weight]]:
    """Which rows are multiplied by which weights, in order of rows."""
    start = 0
    for share, weight in here.others:
        if share.start > start:
            yield slice(start, share.start), layer.own(dtype)
        yield share, weight
        start = share.stop
    if start < rows or not rows:
        yield slice(start, rows), layer.own(dtype)


def _add_linear(out: Tensor, path: SidePath, x: Tensor) -> None:
    """Add a side path to the rows it is for. out [n, ..., C], the very tensor; x: those rows' input."""
    change, factor = path.change, _factor(path, out)
    if isinstance(change, Kron):
        split = x.unflatten(-1, (change.outer.shape[1], -1))  # type: ignore[no-untyped-call]
        inner = kernels.linear(split, change.inner, None)
        out.add_((change.outer @ inner).flatten(-2) * (factor * change.scale))
        return
    if change.down is not None and change.up is not None:
        inner = kernels.linear(x, change.down, None) * (factor * change.scale)
        _add_product(out, inner, change.up)
    if change.weight is not None:
        out.add_(kernels.linear(x, change.weight, None) * factor)
    if change.bias is not None:
        out.add_(change.bias * factor)


def _add_product(out: Tensor, x: Tensor, weight: Tensor) -> None:
    """out [..., C] += x [..., r] @ weight [C, r], in one reading and writing of `out` where it allows."""
    if out.is_contiguous():
        out.view(-1, out.shape[-1]).addmm_(x.reshape(-1, x.shape[-1]), weight.t())
    else:
        out.add_(F.linear(x, weight))


def _factor(path: SidePath, out: Tensor) -> Tensor:
    """The rows' strengths, to be multiplied with a tensor of the dimensions of `out`."""
    return path.strengths.to(out.dtype).reshape(-1, *[1] * (out.ndim - 1))


def runs(rows: Sequence[int]) -> list[slice]:
    """Ascending rows as slices of neighbours: [0, 1, 4] are 0:2 and 4:5."""
    found: list[slice] = []
    for row in rows:
        if found and found[-1].stop == row:
            found[-1] = slice(found[-1].start, row + 1)
        else:
            found.append(slice(row, row + 1))
    return found
