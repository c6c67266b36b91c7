"""Doubling the size of a feature map: diffusers' Upsample2D, with fewer products on a CPU."""

from collections.abc import Container

import torch.nn.functional as F
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from backend.models.adapters import Conv2d
from backend.models.kernels import doubled, fold


class Upsampler(nn.Module):
    """Nearest neighbour to twice the size (or to a given one), then a convolution.

    folded: what `folded` makes of its weight, where there is that.
    """

    folded: Tensor | None

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self.register_buffer("folded", None, persistent=False)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """[R, C, H, W] -> [R, C', 2H, 2W], or of the given size."""
        twice = (x.shape[2] * 2, x.shape[3] * 2)
        changed = isinstance(self.conv, Conv2d) and self.conv.changed
        if self.folded is None or changed or size not in (None, twice):
            larger: Tensor = self.conv(F.interpolate(x, size=size or twice, mode="nearest"))
            return larger
        return doubled(x, self.folded.reshape(2, 2, -1, *self.folded.shape[1:]), self.conv.bias)


def install_upsamplers(module: nn.Module) -> None:
    """Put them in the place of diffusers' in a network that has no weights yet."""
    for name, layer in list(module.named_modules()):
        if not isinstance(layer, Upsample2D) or layer.norm is not None or not layer.interpolate:
            continue
        if isinstance(layer.conv, nn.Conv2d) and layer.conv.kernel_size == (3, 3):
            parent, _, child = name.rpartition(".")
            module.get_submodule(parent).register_module(child, Upsampler(layer.conv))


def foldable(module: nn.Module, kept: Container[str]) -> dict[str, Upsampler]:
    """Those that can have folded kernels beside their weights, by the names of these.

    kept: weights that are stored otherwise than they are computed with; they are not folded.
    """
    upsamplers = (
        (f"{name}.conv.weight", layer)
        for name, layer in module.named_modules()
        if isinstance(layer, Upsampler)
    )
    return {name: layer for name, layer in upsamplers if name not in kept}


def folded(weight: Tensor) -> Tensor:
    """An upsampler's weight [out, in, 3, 3] -> the kernels it computes with, [4 * out, in, 2, 2].

    For a CPU: a GPU's convolutions are not held up by products, so there it would only cost memory.
    """
    return fold(weight).flatten(0, 2)
