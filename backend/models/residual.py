"""The residual block of UNets and VAEs: diffusers' ResnetBlock2D, with fewer tensors."""

import torch.nn.functional as F
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """x + conv2(silu(norm2(conv1(silu(norm1(x))) + time))), with a 1x1 convolution of x where widths differ.

    New memory for a large map costs more than the sum or the SiLU itself, so both are done in place: each
    works on a tensor that was made in this block. Source: arXiv:2112.10752, appendix E.
    """

    def __init__(self, like: ResnetBlock2D) -> None:
        super().__init__()
        self.norm1, self.conv1, self.norm2, self.conv2 = like.norm1, like.conv1, like.norm2, like.conv2
        self.time_emb_proj, self.conv_shortcut = like.time_emb_proj, like.conv_shortcut

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        """x [R, C, H, W] and diffusers' `temb`, the time's embedding [R, E] -> [R, C', H, W]."""
        inner: Tensor = self.conv1(F.silu(self.norm1(x), inplace=True))
        if self.time_emb_proj is not None and temb is not None:
            inner.add_(self.time_emb_proj(F.silu(temb))[:, :, None, None])
        out: Tensor = self.conv2(F.silu(self.norm2(inner), inplace=True))
        return out.add_(x if self.conv_shortcut is None else self.conv_shortcut(x))


def install_residuals(module: nn.Module) -> None:
    """Put them in the place of diffusers' plain ones in a network that has no weights yet."""
    for name, layer in list(module.named_modules()):
        if isinstance(layer, ResnetBlock2D) and _plain(layer):
            parent, _, child = name.rpartition(".")
            module.get_submodule(parent).register_module(child, ResidualBlock(layer))


def _plain(layer: ResnetBlock2D) -> bool:
    """Without resampling of its own, scaled output, or another way to take the time in."""
    scaled = layer.output_scale_factor != 1.0 or layer.time_embedding_norm != "default"
    resampled = layer.upsample is not None or layer.downsample is not None
    return not (scaled or resampled or layer.skip_time_act) and isinstance(layer.nonlinearity, nn.SiLU)
