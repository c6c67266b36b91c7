"""ComfyUI's `comfy.ldm.flux.layers`: functions and classes that packs name."""

import math

import torch
from torch import nn


def timestep_embedding(t, dim, max_period=10000, time_factor=1000.0):
    """Sines and cosines [N, dim] of times [N] in 0..1."""
    half = dim // 2
    rates = torch.exp(-math.log(max_period) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = (time_factor * t)[:, None].float() * rates[None]
    made = torch.cat([angles.cos(), angles.sin()], dim=-1)
    made = torch.cat([made, torch.zeros_like(made[:, :1])], dim=-1) if dim % 2 else made
    return made.to(t) if torch.is_floating_point(t) else made


def apply_mod(tensor, m_mult, m_add=None, modulation_dims=None):
    """A tensor scaled and shifted, whole or in ranges of its tokens."""
    if modulation_dims is None:
        return tensor * m_mult if m_add is None else torch.addcmul(m_add, tensor, m_mult)
    for start, end, which in modulation_dims:
        tensor[:, start:end] *= m_mult[:, which]
        if m_add is not None:
            tensor[:, start:end] += m_add[:, which]
    return tensor


class EmbedND(nn.Module): ...


class DoubleStreamBlock(nn.Module): ...


class SingleStreamBlock(nn.Module): ...


class LastLayer(nn.Module): ...


class MLPEmbedder(nn.Module): ...
