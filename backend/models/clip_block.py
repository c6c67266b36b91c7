"""CLIP's residual attention block in OpenAI's own names, eight heads: what adapters on CLIP are made of."""

import torch
from torch import Tensor, nn

HEADS = 8


class ClipBlock(nn.Module):
    """[R, T, C] -> [R, T, C]. arXiv:2103.00020, section 2.4."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = _Attention(width)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        inner = self.mlp["c_fc"](self.ln_2(x))
        out: Tensor = x + self.mlp["c_proj"](inner * torch.sigmoid(1.702 * inner))  # quick GELU
        return out


class _Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.in_proj(x).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in parts)
        seen = nn.functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out_proj(seen.transpose(1, 2).flatten(2))
        return out


def in_our_names(name: str) -> str:
    """A checkpoint's name of a block's tensor: q, k and v are one parameter there, not a layer's."""
    return name.replace(".attn.in_proj_", ".attn.in_proj.")
