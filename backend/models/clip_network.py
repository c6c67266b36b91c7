"""CLIP's text transformer, with its widths and depth read from the file.

Source: arXiv:2103.00020, section 2.4. Names as in transformers' CLIPTextModel, which checkpoints use.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.values import frozen

_HEAD = 64  # channels of one attention head, in every CLIP


@frozen
class ClipSizes:
    """width: of tokens; hidden: of the feed-forward layers; layers: their number; projection: width of the
    pooled output behind its projection, None without one; quick: GELU as OpenAI approximates it.
    """

    width: int
    hidden: int
    layers: int
    vocabulary: int
    positions: int
    projection: int | None = None
    quick: bool = True


class ClipNetwork(nn.Module):
    """Embedded tokens -> hidden states."""

    def __init__(self, sizes: ClipSizes) -> None:
        super().__init__()
        self.text_model = _TextModel(sizes)
        if sizes.projection is not None:
            self.text_projection = nn.Linear(sizes.width, sizes.projection, bias=False)

    def embed(self, ids: Tensor) -> Tensor:
        """int64 [...] -> the vocabulary's vectors [..., C], without positions."""
        embeddings = self.text_model.embeddings
        vectors: Tensor = embeddings.token_embedding(ids)
        return vectors.to(embeddings.position_embedding.weight.dtype)  # a large table may be stored otherwise

    def projected(self, pooled: Tensor) -> Tensor:
        """[N, C] -> [N, P]; itself where there is no projection."""
        projection = getattr(self, "text_projection", None)
        return pooled if projection is None else projection(pooled)

    def forward(self, vectors: Tensor, layer: int | None, normed: bool = True) -> tuple[Tensor, Tensor]:
        """[N, T, C] -> the outputs of layer number `layer` and of the last, each [N, T, C].

        The last is layer-normed; that of a `layer` only where it is `normed`. None: the last one.
        """
        return self.text_model(vectors, layer, normed)  # type: ignore[no-any-return]  # nn.Module's call


class _TextModel(nn.Module):
    def __init__(self, sizes: ClipSizes) -> None:
        super().__init__()
        self.embeddings = _Embeddings(sizes)
        self.encoder = _Encoder(sizes)
        self.final_layer_norm = nn.LayerNorm(sizes.width)

    def forward(self, vectors: Tensor, layer: int | None, normed: bool) -> tuple[Tensor, Tensor]:
        positions = self.embeddings.position_embedding.weight
        x = chosen = vectors + positions[: vectors.shape[1]]
        for number, block in enumerate(self.encoder.layers):
            x = block(x)
            chosen = x if number == layer else chosen
        last = self.final_layer_norm(x)
        if layer is None or (chosen is x and normed):
            return last, last
        return (self.final_layer_norm(chosen) if normed else chosen), last


class _Embeddings(nn.Module):
    def __init__(self, sizes: ClipSizes) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(sizes.vocabulary, sizes.width)
        self.position_embedding = nn.Embedding(sizes.positions, sizes.width)


class _Encoder(nn.Module):
    def __init__(self, sizes: ClipSizes) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(sizes) for _ in range(sizes.layers))


class _Layer(nn.Module):
    def __init__(self, sizes: ClipSizes) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(sizes.width)
        self.self_attn = _Attention(sizes.width)
        self.layer_norm2 = nn.LayerNorm(sizes.width)
        self.mlp = _FeedForward(sizes)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))  # type: ignore[no-any-return]  # nn.Module's call


class _Attention(nn.Module):
    """Each token looks at itself and those before it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = max(1, width // _HEAD)
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            p(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out_proj(seen.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]  # nn.Module's call


class _FeedForward(nn.Module):
    def __init__(self, sizes: ClipSizes) -> None:
        super().__init__()
        self.fc1 = nn.Linear(sizes.width, sizes.hidden)
        self.fc2 = nn.Linear(sizes.hidden, sizes.width)
        self.quick = sizes.quick

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        x = x * torch.sigmoid(1.702 * x) if self.quick else F.gelu(x)  # arXiv:1606.08415
        return self.fc2(x)  # type: ignore[no-any-return]  # nn.Module's call
