"""ComfyUI's `comfy.ldm.lightricks.model`: classes for isinstance; the networks are in workers."""

import math

import torch
from torch import nn


class LTXVModel(nn.Module): ...


class BasicTransformerBlock(nn.Module): ...


class CrossAttention(nn.Module): ...


class FeedForward(nn.Module): ...


def apply_rotary_emb(input_tensor, freqs_cis):
    """Pairs of neighbouring numbers turned by (cosines, sines)."""
    cosines, sines = freqs_cis[0], freqs_cis[1]
    first, second = input_tensor.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack((-second, first), dim=-1).flatten(-2)
    return input_tensor * cosines + turned * sines


def precompute_freqs_cis(indices_grid, dim, out_dtype, theta=10000.0, max_pos=[20, 2048, 2048]):
    """(cosines, sines) [B, N, dim] for places [B, 3, N] of a video."""
    axes = indices_grid.shape[1]
    parts = torch.stack([indices_grid[:, i] / max_pos[i] for i in range(axes)], dim=-1)
    steps = torch.linspace(0, 1, dim // (2 * axes), device=indices_grid.device, dtype=torch.float32)
    rates = theta**steps * math.pi / 2.0
    angles = (rates * (parts.unsqueeze(-1) * 2 - 1)).transpose(-1, -2).flatten(2)
    cosines, sines = (t.repeat_interleave(2, dim=-1) for t in (angles.cos(), angles.sin()))
    if (rest := dim % (2 * axes)) != 0:
        cosines = torch.cat([torch.ones_like(cosines[..., :rest]), cosines], dim=-1)
        sines = torch.cat([torch.zeros_like(sines[..., :rest]), sines], dim=-1)
    return cosines.to(out_dtype), sines.to(out_dtype)
