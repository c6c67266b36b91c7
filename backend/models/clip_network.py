"""CLIP's text transformer, with its widths and depth read from the file.

Source: arXiv:2103.00020, section 2.4. Names as in transformers' CLIPTextModel, which checkpoints use.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.models.header import Header

_HEAD = 64  # channels of one attention head, in every CLIP
_OTHERS = (1024, 1280)  # widths of OpenCLIP's H and G, whose activation and padding are others


@dataclass(frozen=True, slots=True)
class ClipLayout:
    """width: of tokens; hidden: of the feed-forward layers; layers: their number."""

    width: int
    hidden: int
    layers: int
    vocabulary: int
    positions: int


def detect(header: Header) -> ClipLayout | None:
    """The layout of a CLIP-L text model (names from `text_model.` on); None where the header has none."""
    tokens, positions = (f"text_model.embeddings.{kind}_embedding.weight" for kind in ("token", "position"))
    first = "text_model.encoder.layers.0.mlp.fc1.weight"
    if any(name not in header for name in (tokens, positions, first)):
        return None
    vocabulary, width = header.shape(tokens)
    if width in _OTHERS:
        return None
    layers = header.count("text_model.encoder.layers.{}.")
    return ClipLayout(width, header.shape(first)[0], layers, vocabulary, header.shape(positions)[0])


class ClipNetwork(nn.Module):
    """Embedded tokens -> hidden states."""

    def __init__(self, layout: ClipLayout) -> None:
        super().__init__()
        self.text_model = _TextModel(layout)

    def embed(self, ids: Tensor) -> Tensor:
        """int64 [...] -> the vocabulary's vectors [..., C], without positions."""
        return self.text_model.embeddings.token_embedding(ids)  # type: ignore[no-any-return]  # nn.Module's call

    def forward(self, vectors: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """[N, T, C] -> the outputs of layer number `layer` and of the last, each [N, T, C], layer-normed."""
        return self.text_model(vectors, layer)  # type: ignore[no-any-return]  # nn.Module's call


class _TextModel(nn.Module):
    def __init__(self, layout: ClipLayout) -> None:
        super().__init__()
        self.embeddings = _Embeddings(layout)
        self.encoder = _Encoder(layout)
        self.final_layer_norm = nn.LayerNorm(layout.width)

    def forward(self, vectors: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        positions = self.embeddings.position_embedding.weight
        x = chosen = vectors + positions[: vectors.shape[1]]
        for number, block in enumerate(self.encoder.layers):
            x = block(x)
            chosen = x if number == layer else chosen
        last = self.final_layer_norm(x)
        return (last if chosen is x else self.final_layer_norm(chosen)), last


class _Embeddings(nn.Module):
    def __init__(self, layout: ClipLayout) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(layout.vocabulary, layout.width)
        self.position_embedding = nn.Embedding(layout.positions, layout.width)


class _Encoder(nn.Module):
    def __init__(self, layout: ClipLayout) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(layout) for _ in range(layout.layers))


class _Layer(nn.Module):
    def __init__(self, layout: ClipLayout) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(layout.width)
        self.self_attn = _Attention(layout.width)
        self.layer_norm2 = nn.LayerNorm(layout.width)
        self.mlp = _FeedForward(layout)

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
    def __init__(self, layout: ClipLayout) -> None:
        super().__init__()
        self.fc1 = nn.Linear(layout.width, layout.hidden)
        self.fc2 = nn.Linear(layout.hidden, layout.width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        return self.fc2(x * torch.sigmoid(1.702 * x))  # type: ignore[no-any-return]  # quick GELU, arXiv:1606.08415
