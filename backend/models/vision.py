"""Image encoders of CLIP and SigLIP: pictures -> what image prompts and style models read.

Source: arXiv:2103.00020, section 2.4; arXiv:2303.15343. Names as in transformers, or OpenCLIP's (`visual.`).
"""

from collections.abc import Iterator, Mapping
from math import isqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.components import Weights
from backend.errors import BadFile
from backend.models.adapters import adapt
from backend.models.encoders.clip import open_clip_block
from backend.models.header import Header
from backend.models.hostcopy import Form, HostCopies
from backend.models.weights import fill, open_file
from backend.types import ClipVisionOutput
from backend.values import frozen

_HEADS = 16  # of every one of them; the only number that shapes do not tell
_DEEP = 31  # layers from which on the activation is GELU itself
_OPEN_CLIP = "visual.transformer.resblocks.0.attn.in_proj_weight"
_FIRST = "vision_model.encoder.layers.0.layer_norm1.weight"
_WHOLE: Mapping[str, str] = {
    "class_embedding": "vision_model.embeddings.class_embedding",
    "conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "ln_post.bias": "vision_model.post_layernorm.bias",
    "ln_post.weight": "vision_model.post_layernorm.weight",
    "ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "ln_pre.weight": "vision_model.pre_layrnorm.weight",
}
_KEPT = ("vision_model.", "visual_projection.", "multi_modal_projector.")
_CLIP_PIXELS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_SIGLIP_PIXELS = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@frozen
class VisionLayout:
    """width: of tokens; hidden: of the feed-forward layers; patch: pixels of a token's side; tokens: of a
    picture; siglip: without a class token; projection: width of the pooled output, None as it is; llava:
    width of what a language model reads, None without.
    """

    width: int
    hidden: int
    layers: int
    patch: int
    tokens: int
    siglip: bool
    projection: int | None = None
    llava: int | None = None

    @property
    def size(self) -> int:
        """Pixels of the square picture."""
        return isqrt(self.tokens - (not self.siglip)) * self.patch

    @property
    def activation(self) -> str:
        if self.siglip:
            return "tanh"
        return "exact" if self.layers >= _DEEP else "quick"

    def build(self) -> "VisionNetwork":
        with torch.device("meta"):
            return VisionNetwork(self)

    def convert(self, name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        """A tensor by transformers' or OpenCLIP's name; what only training used is left out."""
        if name.startswith("visual.transformer.resblocks."):
            _, _, _, number, rest = name.split(".", 4)
            yield from open_clip_block(f"vision_model.encoder.layers.{number}", rest, weight)
        elif name == "visual.proj":
            yield "visual_projection.weight", weight.t()
        elif name.startswith("visual."):
            place = _WHOLE.get(name.removeprefix("visual."))
            if place is not None:
                yield place, weight
        elif name.startswith(_KEPT) and ".head." not in name and not name.endswith(".position_ids"):
            yield name, weight


@frozen(eq=False)
class VisionEncoder:
    """nbytes: of its weights."""

    layout: VisionLayout
    module: "VisionNetwork"
    nbytes: int
    device: torch.device
    dtype: torch.dtype

    def encode(self, images: Tensor, crop: bool) -> ClipVisionOutput:
        """Pictures [B, H, W, C] in 0..1, their middle cut out or (crop False) squeezed into a square."""
        pixels = prepared(images, self.layout, crop).to(self.device, self.dtype)
        with torch.no_grad():
            last, states, pooled, projected = self.module(pixels)
        every = states if self.layout.siglip else None
        parts = [
            None if part is None else part.float().cpu()
            for part in (last, pooled, states[:, -2], projected, every)
        ]
        assert parts[0] is not None
        assert parts[1] is not None
        assert parts[2] is not None
        return ClipVisionOutput(parts[0], parts[1], parts[2], parts[3], parts[4])


def prepared(images: Tensor, layout: VisionLayout, crop: bool) -> Tensor:
    """[B, H, W, C] in 0..1 -> [B, 3, size, size], normed as the encoder was trained."""
    size = layout.size
    pixels = images[..., :3].movedim(-1, 1).float()
    height, width = pixels.shape[-2:]
    if (height, width) != (size, size):
        scale = size / min(height, width)
        sides = (round(scale * height), round(scale * width)) if crop else (size, size)
        pixels = F.interpolate(pixels, size=sides, mode="bicubic", antialias=True)
        top, left = (pixels.shape[2] - size) // 2, (pixels.shape[3] - size) // 2
        pixels = pixels[:, :, top : top + size, left : left + size]
    pixels = (255.0 * pixels).clip(0, 255).round() / 255.0
    mean, deviation = (
        torch.tensor(values).view(3, 1, 1) for values in (_SIGLIP_PIXELS if layout.siglip else _CLIP_PIXELS)
    )
    return (pixels - mean) / deviation


def detect(header: Header) -> VisionLayout | None:
    """The layout of an image encoder's file; None for anything else."""
    if _OPEN_CLIP in header:
        layers = header.count("visual.transformer.resblocks.{}.")
        hidden = header.shape("visual.transformer.resblocks.0.mlp.c_fc.weight")[0]
        patches, places = header.shape("visual.conv1.weight"), header.shape("visual.positional_embedding")
        projection = header.shape("visual.proj")[1] if "visual.proj" in header else None
        return VisionLayout(patches[0], hidden, layers, patches[2], places[0], False, projection)
    if _FIRST not in header:
        return None
    patches = header.shape("vision_model.embeddings.patch_embedding.weight")
    projection = header.shape("visual_projection.weight")[0] if "visual_projection.weight" in header else None
    llava = "multi_modal_projector.linear_1.weight"
    return VisionLayout(
        patches[0],
        header.shape("vision_model.encoder.layers.0.mlp.fc1.weight")[0],
        header.count("vision_model.encoder.layers.{}."),
        patches[2],
        header.shape("vision_model.embeddings.position_embedding.weight")[0],
        "vision_model.embeddings.class_embedding" not in header,
        projection,
        header.shape(llava)[0] if llava in header else None,
    )


def load_vision(
    weights: Weights, device: torch.device, dtype: torch.dtype, copies: HostCopies | None = None
) -> VisionEncoder:
    """An image encoder of a file of its own. Raises: BadFile where it holds none of a known kind."""
    file = open_file(weights.files[0])
    layout = detect(file.header)
    if layout is None:
        remedy = "Use an image encoder of CLIP or SigLIP from models/clip_vision."
        raise BadFile(weights.files[0].path, "no image encoder of a known kind is in it", remedy)
    module = layout.build()
    adapt(module)
    copy = copies.of(weights) if copies else None
    nbytes = fill(module, file, layout.convert, device, Form(dtype), copy)
    return VisionEncoder(layout, module, nbytes, device, dtype)


class VisionNetwork(nn.Module):
    """[B, 3, size, size] -> the last tokens and those of the layer before the last, both [B, T, C]; pooled
    [B, P] (of SigLIP all tokens, [B, T, C]); what a language model reads, or None.
    """

    def __init__(self, layout: VisionLayout) -> None:
        super().__init__()
        self.vision_model = _Vision(layout)
        if layout.projection is not None:
            self.visual_projection = nn.Linear(layout.width, layout.projection, bias=False)
        if layout.llava is not None:
            self.multi_modal_projector = _Llava(layout.width, layout.llava)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        last, states, pooled = self.vision_model(pixels)
        if hasattr(self, "visual_projection"):
            pooled = self.visual_projection(pooled)
        read = self.multi_modal_projector(states[:, -2]) if hasattr(self, "multi_modal_projector") else None
        return last, states, pooled, read


class _Vision(nn.Module):
    def __init__(self, layout: VisionLayout) -> None:
        super().__init__()
        self.siglip = layout.siglip
        self.embeddings = _Embeddings(layout)
        self.pre_layrnorm = nn.Identity() if layout.siglip else nn.LayerNorm(layout.width)
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(_Layer(layout) for _ in range(layout.layers))})
        self.post_layernorm = nn.LayerNorm(layout.width)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The last layer, hidden states of layers (of SigLIP all, else the last two), what is pooled."""
        made = [self.pre_layrnorm(self.embeddings(pixels))]
        for layer in self.encoder["layers"].children():
            made.append(layer(made[-1]))
        x, states = made[-1], torch.stack(made[1:] if self.siglip else made[-2:], dim=1)
        if self.siglip:
            last = self.post_layernorm(x)
            return last, states, last
        return x, states, self.post_layernorm(x[:, 0, :])


class _Embeddings(nn.Module):
    def __init__(self, layout: VisionLayout) -> None:
        super().__init__()
        self.class_embedding = None if layout.siglip else nn.Parameter(torch.empty(layout.width))
        self.patch_embedding = nn.Conv2d(3, layout.width, layout.patch, layout.patch, bias=layout.siglip)
        self.position_embedding = nn.Embedding(layout.tokens, layout.width)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        if self.class_embedding is not None:
            x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], dim=1)
        out: Tensor = x + self.position_embedding.weight
        return out


class _Layer(nn.Module):
    def __init__(self, layout: VisionLayout) -> None:
        super().__init__()
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(layout.width), nn.LayerNorm(layout.width)
        self.self_attn = _Attention(layout.width)
        self.mlp = _FeedForward(layout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        out: Tensor = x + self.mlp(self.layer_norm2(x))
        return out


class _Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            p(x).unflatten(-1, (_HEADS, -1)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        seen = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out_proj(seen.transpose(1, 2).flatten(2))
        return out


class _FeedForward(nn.Module):
    def __init__(self, layout: VisionLayout) -> None:
        super().__init__()
        self.activation = layout.activation
        self.fc1, self.fc2 = nn.Linear(layout.width, layout.hidden), nn.Linear(layout.hidden, layout.width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        match self.activation:
            case "quick":
                x = x * torch.sigmoid(1.702 * x)
            case "tanh":
                x = F.gelu(x, approximate="tanh")
            case _:
                x = F.gelu(x)
        out: Tensor = self.fc2(x)
        return out


class _Llava(nn.Module):
    """Source: arXiv:2310.03744."""

    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(into, out), nn.Linear(out, out)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear_2(F.gelu(self.linear_1(x[:, 1:])))
        return out
