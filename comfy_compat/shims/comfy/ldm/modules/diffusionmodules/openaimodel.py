"""ComfyUI's `comfy.ldm.modules.diffusionmodules.openaimodel`: classes and functions that packs name."""

from torch import nn

from comfy.ldm.modules.attention import SpatialTransformer, SpatialVideoTransformer, TimestepEmbedSequential
from comfy.ldm.modules.diffusionmodules.util import (
    avg_pool_nd,
    conv_nd,
    linear,
    timestep_embedding,
    zero_module,
)


class UNetModel(nn.Module):
    """A class to ask for with isinstance; the server's networks are in the workers."""


class TimestepBlock(nn.Module): ...


class ResBlock(TimestepBlock): ...


class VideoResBlock(ResBlock): ...


class Upsample(nn.Module): ...


class Downsample(nn.Module): ...


class Timestep(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.dim = dim

    def forward(self, t):
        return timestep_embedding(t, self.dim)


def forward_timestep_embed(ts, x, emb, context=None, transformer_options={}, output_shape=None, **kwargs):
    """A block's layers in turn, as each wants it."""
    for layer in ts:
        if isinstance(layer, TimestepBlock):
            x = layer(x, emb)
        elif isinstance(layer, SpatialTransformer):
            x = layer(x, context, transformer_options)
        else:
            x = layer(x)
    return x


def apply_control(h, control, name):
    """A ControlNet's residual added."""
    if control is not None and control.get(name):
        residual = control[name].pop()
        if residual is not None:
            h = h + residual
    return h


__all__ = [
    "ResBlock",
    "SpatialTransformer",
    "SpatialVideoTransformer",
    "TimestepEmbedSequential",
    "UNetModel",
    "apply_control",
    "avg_pool_nd",
    "conv_nd",
    "linear",
    "timestep_embedding",
    "zero_module",
]
