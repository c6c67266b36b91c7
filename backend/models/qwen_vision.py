"""Qwen2.5-VL's eye: pictures -> tokens of its language model.

Source: arXiv:2502.13923, section 2.1.1. Names as in transformers' model, which checkpoints use.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.models.qwen_network import Gated, RmsNorm, turned
from backend.values import frozen

PATCH, MERGED = 14, 2  # pixels of a patch's side; patches of a token's side
FRAMES = 2  # of a picture's patch: the picture, twice
_LEAST, _MOST = 3136, 12_845_056  # pixels of a picture
_WINDOW = 112  # pixels of a window's side
_FULL = 8  # every so manieth block looks at all of the picture, the others at windows
_THETA = 10_000.0
_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of CLIP's pictures
_DEVIATION = (0.26862954, 0.26130258, 0.27577711)


@frozen
class VisionSizes:
    """width: of patches; hidden: of the feed-forward layers; out: width of the tokens it makes."""

    width: int
    heads: int
    hidden: int
    layers: int
    out: int


@frozen(eq=False)
class Patches:
    """A picture cut up. values [S, 3 * 2 * 14 * 14], token by token; rows, columns: of patches."""

    values: Tensor
    rows: int
    columns: int


def cut(image: Tensor) -> Patches:
    """A picture [H, W, 3] in 0..1 -> its patches, at the nearest size that has whole tokens."""
    height, width = image.shape[:2]
    down, across = _size(height, width)
    pixels = F.interpolate(image.movedim(-1, 0)[None].float(), size=(down, across), mode="bilinear")
    mean, deviation = (torch.tensor(v, device=image.device).reshape(1, 3, 1, 1) for v in (_MEAN, _DEVIATION))
    pixels = (pixels - mean) / deviation
    rows, columns = down // PATCH, across // PATCH
    split = pixels.reshape(3, rows // MERGED, MERGED, PATCH, columns // MERGED, MERGED, PATCH)
    split = split.permute(1, 4, 2, 5, 0, 3, 6).reshape(rows * columns, 3, 1, PATCH, PATCH)
    return Patches(split.expand(-1, -1, FRAMES, -1, -1).reshape(rows * columns, -1), rows, columns)


class VisionNetwork(nn.Module):
    def __init__(self, sizes: VisionSizes) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.patch_embed = _Embedding(sizes.width)
        self.blocks = nn.ModuleList(_Block(sizes) for _ in range(sizes.layers))
        self.merger = _Merger(sizes)

    def forward(self, picture: Patches) -> Tensor:
        """-> float32 [rows / 2 * columns / 2, out]."""
        windows = _windows(picture.rows // MERGED, picture.columns // MERGED)
        order = torch.cat(windows)
        x = self.patch_embed(picture.values)
        turn = _turns(picture, x.shape[-1] // self.heads, order, x.device)
        square = MERGED * MERGED
        x = x.reshape(-1, square, x.shape[-1])[order.to(x.device)].flatten(0, 1)
        parts = [len(window) * square for window in windows]
        for number, block in enumerate(self.blocks):
            x = block(x, turn, [len(x)] if (number + 1) % _FULL == 0 else parts)
        return self.merger(x)[order.argsort().to(x.device)]  # type: ignore[no-any-return]  # nn.Module's call


class _Embedding(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        kernel = (FRAMES, PATCH, PATCH)
        self.proj = nn.Conv3d(3, width, kernel_size=kernel, stride=kernel, bias=False)

    def forward(self, values: Tensor) -> Tensor:
        return F.linear(values, self.proj.weight.flatten(1).to(values.dtype))


class _Block(nn.Module):
    def __init__(self, sizes: VisionSizes) -> None:
        super().__init__()
        self.norm1, self.norm2 = RmsNorm(sizes.width), RmsNorm(sizes.width)
        self.attn = _Attention(sizes.width, sizes.heads)
        self.mlp = Gated(sizes.width, sizes.hidden, bias=True)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor], parts: list[int]) -> Tensor:
        x = x + self.attn(self.norm1(x), turn, parts)
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]  # nn.Module's call


class _Attention(nn.Module):
    """Each patch looks at those of its own part."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, width * 3)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor], parts: list[int]) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(1, 2, 0, 3)[:, None]
        q, k = turned(q, turn), turned(k, turn)
        seen = [
            F.scaled_dot_product_attention(*part)
            for part in zip(*(torch.split(t, parts, dim=2) for t in (q, k, v)), strict=True)
        ]
        return self.proj(torch.cat(seen, dim=2)[0].transpose(0, 1).flatten(1))  # type: ignore[no-any-return]


class _Merger(nn.Module):
    """Four patches become a token."""

    def __init__(self, sizes: VisionSizes) -> None:
        super().__init__()
        inner = sizes.width * MERGED * MERGED
        self.ln_q = RmsNorm(sizes.width)
        self.mlp = nn.Sequential(nn.Linear(inner, inner), nn.GELU(), nn.Linear(inner, sizes.out))

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(self.ln_q(x).reshape(-1, x.shape[-1] * MERGED * MERGED))  # type: ignore[no-any-return]


def _size(height: int, width: int) -> tuple[int, int]:
    """The nearest size whose sides are whole tokens, and which has neither too few pixels nor too many."""
    side = PATCH * MERGED
    down, across = round(height / side) * side, round(width / side) * side
    if down * across > _MOST:
        shrink = math.sqrt(height * width / _MOST)
        down, across = (max(side, math.floor(n / shrink / side) * side) for n in (height, width))
    elif down * across < _LEAST:
        grow = math.sqrt(_LEAST / (height * width))
        down, across = (math.ceil(n * grow / side) * side for n in (height, width))
    return down, across


def _windows(rows: int, columns: int) -> list[Tensor]:
    """Numbers of the tokens in each window, from the top left on."""
    side = _WINDOW // PATCH // MERGED
    numbers = torch.arange(rows * columns).reshape(rows, columns)
    bands = torch.split(numbers, side)
    return [part.flatten() for band in bands for part in torch.split(band, side, dim=1)]


def _turns(picture: Patches, head: int, order: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines [1, 1, S, head] by row and column of each patch, tokens in `order`."""
    places = torch.stack(
        torch.meshgrid(torch.arange(picture.rows), torch.arange(picture.columns), indexing="ij"), dim=-1
    )
    shape = (picture.rows // MERGED, MERGED, picture.columns // MERGED, MERGED, 2)
    places = places.reshape(shape).permute(0, 2, 1, 3, 4).reshape(-1, MERGED * MERGED, 2)[order].flatten(0, 1)
    scale = _THETA ** -(torch.arange(0, head // 2, 2).float() / (head // 2))
    angle = (places[..., None].float() * scale).flatten(1)
    angle = torch.cat([angle, angle], dim=-1)[None, None].to(device)
    return angle.cos(), angle.sin()
