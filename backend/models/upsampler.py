"""Doubling the size of a feature map: diffusers' Upsample2D, with fewer products on a CPU."""

import torch
import torch.nn.functional as F
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from backend.models.adapters import Conv2d
from backend.models.kernels import doubled, fold


class Upsampler(nn.Module):
    """Nearest neighbour to twice the size (or to a given one), then a convolution."""

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
        return doubled(x, self.folded, self.conv.bias)


def install_upsamplers(module: nn.Module) -> None:
    """Put them in the place of diffusers' in a network that has no weights yet."""
    for name, layer in list(module.named_modules()):
        if not isinstance(layer, Upsample2D) or layer.norm is not None or not layer.interpolate:
            continue
        if isinstance(layer.conv, nn.Conv2d) and layer.conv.kernel_size == (3, 3):
            parent, _, child = name.rpartition(".")
            module.get_submodule(parent).register_module(child, Upsampler(layer.conv))


def fold_upsamplers(module: nn.Module) -> int:
    """Once the weights are there: on a CPU, keep folded kernels beside them. Returns: their bytes.

    A GPU's convolutions are not held up by products, so there it would only cost memory.
    """
    nbytes = 0
    for layer in module.modules():
        if isinstance(layer, Upsampler) and _folds(layer.conv):
            kernels = fold(layer.conv.weight)
            flat = kernels.flatten(0, 2).contiguous(memory_format=torch.channels_last)
            layer.folded = flat.reshape(kernels.shape)
            nbytes += flat.nbytes
    return nbytes


def _folds(conv: nn.Conv2d) -> bool:
    """On a CPU, with a weight that is stored as it is computed with."""
    stored = isinstance(conv, Conv2d) and conv.computes is not None
    return conv.weight.device.type == "cpu" and not stored
