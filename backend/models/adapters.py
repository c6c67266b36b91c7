"""Side paths: what a layer adds to its output for some rows of the batch. Base weights are never edited."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.models import kernels


@dataclass(frozen=True, slots=True)
class Delta:
    """A change of one layer's weight: up @ down, or `weight` where it is not of low rank; and of its bias.

    Linear: down [r, in], up [out, r]. Conv2d: down [r, in, h, w], up [out, r, 1, 1], mid [r, r, h, w] or None
    (down is then [r, in, 1, 1]). scale: alpha / rank.
    """

    down: Tensor | None = None
    up: Tensor | None = None
    mid: Tensor | None = None
    scale: float = 1.0
    weight: Tensor | None = None
    bias: Tensor | None = None

    @property
    def nbytes(self) -> int:
        parts = (self.down, self.up, self.mid, self.weight, self.bias)
        return sum(part.nbytes for part in parts if part is not None)


@dataclass(frozen=True, slots=True)
class SidePath:
    """A delta and the rows it is for. rows int64 [n], or None: all; strengths float32 [n or R]."""

    delta: Delta
    rows: Tensor | None
    strengths: Tensor


Sites: TypeAlias = Mapping[str, Sequence[SidePath]]
# What runs in this call; a context variable, so that two threads may use one module at the same time.
_active: ContextVar[Sites | None] = ContextVar("side_paths", default=None)


@contextmanager
def applied(sites: Sites) -> Iterator[None]:
    """Within it, the layers named in `sites` add their side paths."""
    token = _active.set(sites or None)
    try:
        yield
    finally:
        _active.reset(token)


class Linear(nn.Linear):
    """nn.Linear that adds the side paths of its site."""

    site: str = ""

    def forward(self, input: Tensor) -> Tensor:
        out = kernels.linear(input, self.weight, self.bias)
        sites = _active.get()
        for path in sites.get(self.site, ()) if sites else ():
            out = _added(out, path, _linear(path.delta, _taken(input, path.rows)))
        return out


class Conv2d(nn.Conv2d):
    """nn.Conv2d that adds the side paths of its site."""

    site: str = ""

    @property
    def changed(self) -> bool:
        """Whether side paths are added in this call."""
        sites = _active.get()
        return sites is not None and self.site in sites

    def forward(self, input: Tensor) -> Tensor:
        out = self._plain(input)
        sites = _active.get()
        for path in sites.get(self.site, ()) if sites else ():
            out = _added(out, path, self._side(path.delta, _taken(input, path.rows)))
        return out

    def _plain(self, x: Tensor) -> Tensor:
        if self.groups != 1 or self.dilation != (1, 1) or isinstance(self.padding, str):
            return super().forward(x)
        stride, padding = (self.stride[0], self.stride[1]), (self.padding[0], self.padding[1])
        if self.kernel_size == stride == (1, 1) and padding == (0, 0):
            return kernels.pointwise(x, self.weight, self.bias)
        return kernels.convolution(x, self.weight, self.bias, stride, padding)

    def _side(self, delta: Delta, x: Tensor) -> Tensor:
        side: Tensor | float = 0.0
        if delta.weight is not None:
            side = F.conv2d(x, delta.weight, None, self.stride, self.padding, self.dilation)
        if delta.down is not None and delta.up is not None:
            spatial = (self.stride, self.padding, self.dilation)
            plain = ((1, 1), (0, 0), (1, 1))
            x = F.conv2d(x, delta.down, None, *(plain if delta.mid is not None else spatial))  # type: ignore[arg-type]
            if delta.mid is not None:
                x = F.conv2d(x, delta.mid, None, *spatial)  # type: ignore[arg-type]
            side = side + F.conv2d(x, delta.up) * delta.scale
        if delta.bias is not None:
            side = side + delta.bias[:, None, None]
        return torch.as_tensor(side)


def adapt(module: nn.Module) -> tuple[str, ...]:
    """Put the layers above in the place of a module's own, before it has weights. Returns the sites."""
    sites = []
    for name, layer in list(module.named_modules()):
        if type(layer) not in (nn.Linear, nn.Conv2d):
            continue
        adapted = _like(layer)
        adapted.site = name
        parent, _, child = name.rpartition(".")
        module.get_submodule(parent).register_module(child, adapted)
        sites.append(name)
    return tuple(sites)


def _like(layer: nn.Linear | nn.Conv2d) -> Linear | Conv2d:
    bias = layer.bias is not None
    if isinstance(layer, nn.Linear):
        return Linear(layer.in_features, layer.out_features, bias, device="meta")
    kernel = (layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding)
    return Conv2d(*kernel, dilation=layer.dilation, groups=layer.groups, bias=bias, device="meta")  # type: ignore[arg-type]


def _linear(delta: Delta, x: Tensor) -> Tensor:
    side: Tensor | float = 0.0
    if delta.weight is not None:
        side = F.linear(x, delta.weight)
    if delta.down is not None and delta.up is not None:
        side = side + F.linear(F.linear(x, delta.down), delta.up) * delta.scale
    return torch.as_tensor(side if delta.bias is None else side + delta.bias)


def _taken(x: Tensor, rows: Tensor | None) -> Tensor:
    return x if rows is None else x[rows]


def _added(out: Tensor, path: SidePath, side: Tensor) -> Tensor:
    strengths = path.strengths.to(out.dtype).reshape(-1, *[1] * (out.ndim - 1))
    if path.rows is None:
        return out + side * strengths
    return out.index_add(0, path.rows, (side * strengths).expand(len(path.rows), *out.shape[1:]))
