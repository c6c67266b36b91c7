"""Qwen's language models (2.5 and 3) as text encoders, with their widths and depth read from the file.

Source: arXiv:2412.15115 and arXiv:2505.09388; positions of pictures: arXiv:2502.13923, section 2.1.3. Names
as in transformers' models, which checkpoints use. Activations are float32: they overflow half formats.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.values import frozen

_EPSILON = 1e-6
_THETA = 1_000_000.0


@frozen
class QwenSizes:
    """width: of tokens; head: channels of one; shared: of so many heads each key and value head is used by;
    biased: queries, keys and values have a bias (2.5); normed: queries and keys are normalised (3).
    """

    width: int
    heads: int
    shared: int
    head: int
    hidden: int
    layers: int
    vocabulary: int
    biased: bool
    normed: bool


class QwenNetwork(nn.Module):
    """Embedded tokens -> hidden states. visual: what turns pictures into tokens, where the file has it."""

    def __init__(self, sizes: QwenSizes, visual: nn.Module | None = None) -> None:
        super().__init__()
        self.model = _Model(sizes)
        self.visual = visual

    def embed(self, ids: Tensor) -> Tensor:
        """int64 [...] -> float32 [..., C]."""
        return self.model.embed_tokens(ids).float()  # type: ignore[no-any-return]  # nn.Module's call

    def forward(self, vectors: Tensor, positions: Tensor, layer: int | None = None) -> Tensor:
        """Hidden states [N, T, C] of float32 [N, T, C].

        Args: positions [3, T], of a token along time, rows and columns; layer: the number of layers after
        which they are taken, as they are (None: after the last, normalised).
        """
        return self.model(vectors, positions, layer)  # type: ignore[no-any-return]  # nn.Module's call


class _Model(nn.Module):
    def __init__(self, sizes: QwenSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.embed_tokens = nn.Embedding(sizes.vocabulary, sizes.width)
        self.layers = nn.ModuleList(_Layer(sizes) for _ in range(sizes.layers))
        self.norm = RmsNorm(sizes.width)

    def forward(self, x: Tensor, positions: Tensor, layer: int | None) -> Tensor:
        turn = turns(positions.to(x.device), self.sizes.head)
        for block in self.layers[:layer]:
            x = block(x, turn)
        return x if layer is not None else self.norm(x)


class _Layer(nn.Module):
    def __init__(self, sizes: QwenSizes) -> None:
        super().__init__()
        self.input_layernorm = RmsNorm(sizes.width)
        self.self_attn = _Attention(sizes)
        self.post_attention_layernorm = RmsNorm(sizes.width)
        self.mlp = Gated(sizes.width, sizes.hidden, bias=False)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), turn)
        return x + self.mlp(self.post_attention_layernorm(x))  # type: ignore[no-any-return]  # nn.Module's call


class _Attention(nn.Module):
    """Each token looks at itself and those before it."""

    def __init__(self, sizes: QwenSizes) -> None:
        super().__init__()
        self.head, self.shared = sizes.head, sizes.shared
        inner, narrow = sizes.heads * sizes.head, sizes.heads // sizes.shared * sizes.head
        self.q_proj = nn.Linear(sizes.width, inner, bias=sizes.biased)
        self.k_proj = nn.Linear(sizes.width, narrow, bias=sizes.biased)
        self.v_proj = nn.Linear(sizes.width, narrow, bias=sizes.biased)
        self.o_proj = nn.Linear(inner, sizes.width, bias=False)
        self.q_norm = RmsNorm(sizes.head) if sizes.normed else nn.Identity()
        self.k_norm = RmsNorm(sizes.head) if sizes.normed else nn.Identity()

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        q, k, v = (p(x).unflatten(-1, (-1, self.head)).transpose(1, 2) for p in self._projections())
        q, k = turned(self.q_norm(q), turn), turned(self.k_norm(k), turn)
        k, v = k.repeat_interleave(self.shared, dim=1), v.repeat_interleave(self.shared, dim=1)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(seen.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]  # nn.Module's call

    def _projections(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        return self.q_proj, self.k_proj, self.v_proj


class Gated(nn.Module):
    """A feed-forward layer whose one half lets the other through: arXiv:2002.05202."""

    def __init__(self, width: int, hidden: int, bias: bool) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden, bias=bias)
        self.up_proj = nn.Linear(width, hidden, bias=bias)
        self.down_proj = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))  # type: ignore[no-any-return]


class RmsNorm(nn.Module):
    """Scaled to a mean square of 1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], self.weight.to(x.dtype), _EPSILON)


def sections(head: int) -> tuple[int, int, int]:
    """Pairs of a head's channels that are turned by time, row and column: 16, 24 and 24 of 64."""
    side = head * 3 // 16
    return head // 2 - 2 * side, side, side


def turns(positions: Tensor, head: int) -> tuple[Tensor, Tensor]:
    """positions [3, T] -> cosines and sines [1, 1, T, head]; each pair stands half a head apart."""
    scale = _THETA ** -(torch.arange(0, head, 2, device=positions.device).float() / head)
    angle = positions.float()[..., None] * scale
    parts = torch.split(angle, list(sections(head)), dim=-1)
    angle = torch.cat([part[axis] for axis, part in enumerate(parts)], dim=-1)
    angle = torch.cat([angle, angle], dim=-1)[None, None]
    return angle.cos(), angle.sin()


def turned(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """x [N, heads, T, head], each pair of channels turned by its place's angle: arXiv:2104.09864."""
    cos, sin = turn
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin
