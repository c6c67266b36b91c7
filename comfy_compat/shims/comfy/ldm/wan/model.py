"""ComfyUI's `comfy.ldm.wan.model`: classes for isinstance; the networks are in workers."""

import torch
from torch import nn


class WanModel(nn.Module): ...


class WanSelfAttention(nn.Module): ...


class WanT2VCrossAttention(nn.Module): ...


class WanI2VCrossAttention(nn.Module): ...


class VaceWanModel(nn.Module): ...


def sinusoidal_embedding_1d(dim, position):
    """Cosines and sines [N, dim] of places [N]."""
    half = dim // 2
    rates = torch.pow(10000, -torch.arange(half, device=position.device).float() / half)
    angles = torch.outer(position.float(), rates)
    return torch.cat([angles.cos(), angles.sin()], dim=1)
