"""ComfyUI's `comfy.ldm.flux.math`: rotary positions."""

import torch

from comfy.ldm.modules.attention import optimized_attention


def rope(pos, dim, theta):
    """Rotations [..., dim/2, 2, 2] for positions."""
    scale = torch.linspace(0, (dim - 2) / dim, steps=dim // 2, dtype=torch.float64, device=pos.device)
    angles = pos.to(torch.float64)[..., None] * (1.0 / theta**scale)
    made = torch.stack([angles.cos(), -angles.sin(), angles.sin(), angles.cos()], dim=-1)
    return made.reshape(*made.shape[:-1], 2, 2).float()


def apply_rope1(x, freqs_cis):
    pairs = x.float().reshape(*x.shape[:-1], -1, 1, 2)
    turned = freqs_cis[..., 0] * pairs[..., 0] + freqs_cis[..., 1] * pairs[..., 1]
    return turned.reshape(*x.shape).type_as(x)


def apply_rope(xq, xk, freqs_cis):
    return apply_rope1(xq, freqs_cis), apply_rope1(xk, freqs_cis)


def attention(q, k, v, pe, mask=None, transformer_options={}):
    if pe is not None:
        q, k = apply_rope(q, k, pe)
    return optimized_attention(q, k, v, q.shape[1], skip_reshape=True, mask=mask)
