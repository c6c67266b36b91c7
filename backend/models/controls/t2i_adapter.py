"""T2I-Adapters: a small network of the hint alone, whose features join a UNet's way down. arXiv:2302.08453.

Files have the original names, or diffusers'. Sizes are read from the tensors.
"""

import re
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from backend.models.additions import Residuals
from backend.models.control_layout import ControlInputs, HintFormat
from backend.models.header import Header
from backend.values import frozen

_DIFFUSERS = re.compile(r"adapter\.body\.(\d+)\.(?:resnets\.(\d+)\.)?(.+)")
_LEVELS = 4
_BLOCKS = 2  # of each level of a full adapter
# How many input blocks of the UNet are passed before each level's features are added.
_PLACES, _PLACES_XL = (2, 5, 8, 11), (3, 5, 8)  # SDXL: the last level's join the middle


@frozen
class T2iAdapter:
    """inputs: channels of the hint, its pixels put side by side; widths: of each level; blocks: in each;
    kernel: of the blocks' outer convolutions; light: the smaller architecture; strided: levels are halved by
    convolutions, not by means; joins: blocks that begin with a convolution of their own.
    """

    inputs: int
    widths: tuple[int, ...]
    blocks: int
    kernel: int
    light: bool
    strided: bool
    joins: frozenset[int]

    @property
    def wide(self) -> bool:
        """For SDXL: each hint pixel counts for 16 x 16."""
        return not self.light and self.inputs in (256, 768)

    @property
    def hint(self) -> HintFormat:
        shuffle = 16 if self.wide else 8
        return HintFormat(pixels=8, multiple=shuffle, grey=self.inputs == shuffle**2)

    def build(self) -> nn.Module:
        with torch.device("meta"):
            return _Adapter(self)

    def convert(self, name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        yield _original(name, self.light), weight

    def call(self, module: nn.Module, given: ControlInputs) -> Residuals:
        """The hint decides alone; x says nothing."""
        features = module(given.hint)
        places = _PLACES_XL if self.wide else _PLACES
        inputs: list[Tensor | None] = [None] * (places[-1] + 1)
        for place, value in zip(places, features, strict=False):
            inputs[place] = value
        return Residuals(inputs=tuple(inputs), middle=features[-1] if self.wide else None)


class _Adapter(nn.Module):
    def __init__(self, layout: T2iAdapter) -> None:
        super().__init__()
        self.unshuffle = nn.PixelUnshuffle(16 if layout.wide else 8)
        self.per_level = 1 if layout.light else layout.blocks
        self.body = nn.ModuleList()
        halved = (1, 2, 3) if layout.light or not layout.wide else (2,)
        before = layout.inputs if layout.light else layout.widths[0]
        if not layout.light:
            self.conv_in = nn.Conv2d(layout.inputs, layout.widths[0], 3, padding=1)
        for level, width in enumerate(layout.widths):
            if layout.light:
                self.body.append(_Light(before, width, layout.blocks, level in halved))
            else:
                for number in range(layout.blocks):
                    down = number == 0 and level in halved
                    joins = len(self.body) in layout.joins
                    self.body.append(_Block(before if number == 0 else width, width, layout, down, joins))
            before = width

    def forward(self, hint: Tensor) -> list[Tensor]:
        """[R, 1 or 3, H, W] -> the features of each level."""
        x = self.unshuffle(hint)
        x = self.conv_in(x) if hasattr(self, "conv_in") else x
        features = []
        for number, block in enumerate(self.body, 1):
            x = block(x)
            if number % self.per_level == 0:
                features.append(x)
        return features


class _Half(nn.Module):
    """Half the size: by a convolution, or the mean of 2 x 2 (odd sides are filled up with zeros)."""

    def __init__(self, width: int, strided: bool) -> None:
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, stride=2, padding=1) if strided else None

    def forward(self, x: Tensor) -> Tensor:
        if self.op is not None:
            made: Tensor = self.op(x)
            return made
        return nn.functional.avg_pool2d(x, 2, padding=(x.shape[2] % 2, x.shape[3] % 2))


class _Block(nn.Module):
    def __init__(self, into: int, out: int, layout: T2iAdapter, down: bool, joins: bool) -> None:
        super().__init__()
        kernel = layout.kernel
        self.down_opt = _Half(into, layout.strided) if down else None
        self.in_conv = nn.Conv2d(into, out, kernel, padding=kernel // 2) if joins else None
        self.block1 = nn.Conv2d(out, out, 3, padding=1)
        self.block2 = nn.Conv2d(out, out, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.down_opt is None else self.down_opt(x)
        x = x if self.in_conv is None else self.in_conv(x)
        out: Tensor = self.block2(self.block1(x).relu()) + x
        return out


class _Light(nn.Module):
    def __init__(self, into: int, out: int, blocks: int, down: bool) -> None:
        super().__init__()
        inner = out // 4
        self.down_opt = _Half(into, strided=False) if down else None
        self.in_conv = nn.Conv2d(into, inner, 1)
        self.body = nn.ModuleList(_LightBlock(inner) for _ in range(blocks))
        self.out_conv = nn.Conv2d(inner, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.in_conv(x if self.down_opt is None else self.down_opt(x))
        for block in self.body:
            x = block(x)
        out: Tensor = self.out_conv(x)
        return out


class _LightBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.block1 = nn.Conv2d(width, width, 3, padding=1)
        self.block2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block2(self.block1(x).relu()) + x
        return out


def detect(header: Header) -> T2iAdapter | None:
    """A T2I-Adapter with features for a UNet; None for anything else (style adapters are another kind)."""
    light = any(name.endswith("body.0.out_conv.weight") for name in header)
    own = {_original(name, light): info.shape for name, info in header.tensors.items()}
    first = "body.0.in_conv.weight" if light else "conv_in.weight"
    last = f"body.{_LEVELS - 1}.out_conv.weight" if light else f"body.{_LEVELS * _BLOCKS - 1}.block2.weight"
    if first not in own or last not in own:
        return None
    places = [f"body.{n}.out_conv" if light else f"body.{n * _BLOCKS}.block1" for n in range(_LEVELS)]
    inner = sum(f"body.0.body.{number}.block1.weight" in own for number in range(16))
    return T2iAdapter(
        own[first][1],
        tuple(own[f"{place}.weight"][0] for place in places),
        inner if light else _BLOCKS,
        3 if light else own["body.0.block2.weight"][2],
        light,
        strided=any(name.endswith("down_opt.op.weight") for name in own),
        joins=frozenset(n for n in range(_LEVELS * _BLOCKS) if f"body.{n}.in_conv.weight" in own),
    )


def _original(name: str, light: bool) -> str:
    """A name as the original files have it."""
    if (found := _DIFFUSERS.fullmatch(name)) is None:
        return name.removeprefix("adapter.")
    level, block, rest = found.groups()
    if light:
        return f"body.{level}." + (rest if block is None else f"body.{block}.{rest}")
    return f"body.{int(level) * _BLOCKS + int(block or 0)}.{rest}"
