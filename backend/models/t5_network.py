"""T5's encoder, with its widths and depth read from the file; UMT5's too, which has positions of each
layer's own.

Source: arXiv:1910.10683, section 2.1, in its gated form of arXiv:2002.05202. Names as in transformers'
T5EncoderModel, which checkpoints use. Activations are float32: they overflow half formats.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.values import frozen

_BUCKETS, _FARTHEST = 32, 128  # how distances are told apart
_EPSILON = 1e-6


@frozen
class T5Sizes:
    """width: of tokens; inner: of all heads together; hidden: of the feed-forward layers; own: every layer
    has positions of its own.
    """

    width: int
    inner: int
    heads: int
    hidden: int
    layers: int
    vocabulary: int
    own: bool = False


class T5Network(nn.Module):
    """Embedded tokens -> hidden states."""

    def __init__(self, sizes: T5Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.shared = nn.Embedding(sizes.vocabulary, sizes.width)
        self.encoder = _Encoder(sizes)

    def embed(self, ids: Tensor) -> Tensor:
        """int64 [...] -> float32 [..., C]."""
        return self.shared(ids).float()  # type: ignore[no-any-return]  # nn.Module's call

    def forward(self, vectors: Tensor, layers: int | None = None) -> Tensor:
        """float32 [N, T, C] -> the outputs of the last of so many layers (None: all), normalised, [N, T,
        C].
        """
        return self.encoder(vectors, layers)  # type: ignore[no-any-return]  # nn.Module's call


class _Encoder(nn.Module):
    def __init__(self, sizes: T5Sizes) -> None:
        super().__init__()
        self.block = nn.ModuleList(_Block(sizes, sizes.own or n == 0) for n in range(sizes.layers))
        self.final_layer_norm = _Norm(sizes.width)

    def forward(self, x: Tensor, layers: int | None) -> Tensor:
        bias: Tensor | None = None
        for block in self.block[:layers]:
            x, bias = block(x, bias)
        return self.final_layer_norm(x)  # type: ignore[no-any-return]  # nn.Module's call


class _Block(nn.Module):
    def __init__(self, sizes: T5Sizes, positions: bool) -> None:
        super().__init__()
        self.layer = nn.ModuleList([_Attending(sizes, positions), _Feeding(sizes)])

    def forward(self, x: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        x, bias = self.layer[0](x, bias)
        return self.layer[1](x), bias


class _Attending(nn.Module):
    def __init__(self, sizes: T5Sizes, positions: bool) -> None:
        super().__init__()
        self.SelfAttention = _Attention(sizes, positions)
        self.layer_norm = _Norm(sizes.width)

    def forward(self, x: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        seen, bias = self.SelfAttention(self.layer_norm(x), bias)
        return x + seen, bias


class _Attention(nn.Module):
    """Every token looks at every other; how far they are apart is added to what it sees."""

    def __init__(self, sizes: T5Sizes, positions: bool) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.q = nn.Linear(sizes.width, sizes.inner, bias=False)
        self.k = nn.Linear(sizes.width, sizes.inner, bias=False)
        self.v = nn.Linear(sizes.width, sizes.inner, bias=False)
        self.o = nn.Linear(sizes.inner, sizes.width, bias=False)
        self.relative_attention_bias = nn.Embedding(_BUCKETS, sizes.heads) if positions else None

    def forward(self, x: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.relative_attention_bias is not None:
            apart = _buckets(x.shape[1]).to(x.device)
            bias = self.relative_attention_bias(apart).float().permute(2, 0, 1)[None]
        assert bias is not None
        q, k, v = (p(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in (self.q, self.k, self.v))
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
        return self.o(seen.transpose(1, 2).flatten(2)), bias


class _Feeding(nn.Module):
    def __init__(self, sizes: T5Sizes) -> None:
        super().__init__()
        self.DenseReluDense = _Gated(sizes)
        self.layer_norm = _Norm(sizes.width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.DenseReluDense(self.layer_norm(x))  # type: ignore[no-any-return]  # nn.Module's call


class _Gated(nn.Module):
    def __init__(self, sizes: T5Sizes) -> None:
        super().__init__()
        self.wi_0 = nn.Linear(sizes.width, sizes.hidden, bias=False)
        self.wi_1 = nn.Linear(sizes.width, sizes.hidden, bias=False)
        self.wo = nn.Linear(sizes.hidden, sizes.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.wo(F.gelu(self.wi_0(x), approximate="tanh") * self.wi_1(x))  # type: ignore[no-any-return]


class _Norm(nn.Module):
    """Scaled to a mean square of 1, without a mean being taken off."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], self.weight.to(x.dtype), _EPSILON)


def _buckets(length: int) -> Tensor:
    """int64 [length, length]: the number of the distance from each token (row) to each other (column).

    Half of the numbers are for each direction; of these, near distances have one each, far ones share.
    """
    place = torch.arange(length)
    apart = place[None, :] - place[:, None]
    half = _BUCKETS // 2
    near = half // 2
    far = (apart.abs().clamp(min=1).float() / near).log() / math.log(_FARTHEST / near) * (half - near)
    shared = (near + far.long()).clamp(max=half - 1)
    return torch.where(apart.abs() < near, apart.abs(), shared) + (apart > 0) * half
