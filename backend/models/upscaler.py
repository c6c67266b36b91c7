"""Networks that enlarge pictures: ESRGAN and its relatives here, others through spandrel, an optional extra.

Source of the architectures: ESRGAN arXiv:1809.00219 (residual-in-residual dense blocks), Real-ESRGAN
arXiv:2107.10833 (pixel unshuffling; the compact network). Files have the names of the first ESRGAN releases
(`model.0.weight` ...), of BSRGAN's (`RRDB_trunk...`) or of BasicSR's (`body.0.rdb1...`).
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.components import Weights
from backend.errors import BadFile
from backend.models.header import Header
from backend.models.hostcopy import Form, HostCopies
from backend.models.spandrel_nets import load_other
from backend.models.tiling import tiled
from backend.models.weights import ModelFile, fill, open_file
from backend.ops import Tiles
from backend.values import frozen

TILES = Tiles(512, 32)  # larger pictures are cut; as ComfyUI does it
_PER_PIXEL = 3 * 4 * 384  # bytes at the peak per pixel of a tile and unit of scale: ComfyUI's estimate
_DENSE = 5  # convolutions of a dense block
_BLOCK = re.compile(
    r"(?:model\.1\.sub|RRDB_trunk|body)\.(\d+)\.(?:RDB|rdb)(\d)\.conv(\d)\.(?:0\.)?(weight|bias)"
)
_UP = re.compile(r"(?:upconv|conv_up)(\d)\.(weight|bias)")
_NAMED = {
    "conv_first": ("conv_first", "model.0"),
    "conv_body": ("conv_body", "trunk_conv"),
    "conv_hr": ("conv_hr", "HRconv"),
    "conv_last": ("conv_last",),
}


class Net(Protocol):
    """A network and what it asks for. multiple, minimum: of a picture's sides."""

    @property
    def scale(self) -> int: ...

    @property
    def channels(self) -> int: ...

    @property
    def multiple(self) -> int: ...

    @property
    def minimum(self) -> int: ...

    def build(self) -> nn.Module:
        """The network on the meta device, without weights."""

    def convert(self, name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        """One tensor of the file -> the network's."""


@frozen
class RrdbNet:
    """An ESRGAN as its header describes it.

    unshuffle: pixels that the network folds into channels first; ups: how often it doubles the size.
    """

    channels: int
    out: int
    width: int
    growth: int
    blocks: int
    ups: int
    unshuffle: int

    @property
    def scale(self) -> int:
        return (1 << self.ups) // self.unshuffle

    @property
    def multiple(self) -> int:
        return 4 if self.unshuffle > 1 else 1

    @property
    def minimum(self) -> int:
        return 2

    def build(self) -> nn.Module:
        with torch.device("meta"):
            return Rrdb(self)

    def convert(self, name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        stem, _, end = name.rpartition(".")
        if (block := _BLOCK.fullmatch(name)) is not None:
            yield f"body.{block[1]}.{int(block[2]) - 1}.{int(block[3]) - 1}.{block[4]}", weight
        elif (up := _UP.fullmatch(name)) is not None:
            yield f"ups.{int(up[1]) - 1}.{up[2]}", weight
        else:
            yield f"{self._place(stem)}.{end}", weight

    def _place(self, stem: str) -> str:
        for place, names in _NAMED.items():
            if stem in names:
                return place
        numbered = {f"model.1.sub.{self.blocks}": "conv_body"}
        # The first releases number a plain sequence: each doubling takes three places, the end four more.
        numbered |= {f"model.{3 * n + 3}": f"ups.{n}" for n in range(self.ups)}
        numbered |= {f"model.{3 * self.ups + 2}": "conv_hr", f"model.{3 * self.ups + 4}": "conv_last"}
        return numbered.get(stem, stem)


class Rrdb(nn.Module):
    def __init__(self, layout: RrdbNet) -> None:
        super().__init__()
        self.unshuffle = layout.unshuffle
        conv = partial(nn.Conv2d, kernel_size=3, padding=1)
        width, growth = layout.width, layout.growth
        self.conv_first = conv(layout.channels * layout.unshuffle**2, width)
        self.body = nn.ModuleList(
            nn.ModuleList(_dense_block(width, growth) for _ in range(3)) for _ in range(layout.blocks)
        )
        self.conv_body = conv(width, width)
        self.ups = nn.ModuleList(conv(width, width) for _ in range(layout.ups))
        self.conv_hr = conv(width, width)
        self.conv_last = conv(width, layout.out)

    def forward(self, x: Tensor) -> Tensor:
        """[1, C, H, W] -> [1, D, H * scale, W * scale]."""
        if self.unshuffle > 1:
            x = F.pixel_unshuffle(x, self.unshuffle)
        first = trunk = self.conv_first(x)
        for block in self.body:
            inner = trunk
            for dense in block:  # type: ignore[attr-defined]  # a ModuleList
                inner = _densely(dense, inner)
            trunk = inner * 0.2 + trunk
        x = first + self.conv_body(trunk)
        for up in self.ups:
            x = _leaky(up(F.interpolate(x, scale_factor=2, mode="nearest")))
        result: Tensor = self.conv_last(_leaky(self.conv_hr(x)))
        return result


def _dense_block(width: int, growth: int) -> nn.ModuleList:
    outs = (*(growth,) * (_DENSE - 1), width)
    return nn.ModuleList(nn.Conv2d(width + n * growth, out, 3, padding=1) for n, out in enumerate(outs))


def _densely(convs: nn.ModuleList, x: Tensor) -> Tensor:
    """Each convolution sees the block's input and all before it."""
    seen = [x]
    for conv in convs[:-1]:
        seen.append(_leaky(conv(torch.cat(seen, 1))))
    last: Tensor = convs[-1](torch.cat(seen, 1))
    return last * 0.2 + x


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2)


@frozen
class CompactNet:
    """Real-ESRGAN's small network as its header describes it: convolutions at the picture's own size."""

    channels: int
    out: int
    width: int
    layers: int
    scale: int

    @property
    def multiple(self) -> int:
        return 1

    @property
    def minimum(self) -> int:
        return 0

    def build(self) -> nn.Module:
        with torch.device("meta"):
            return Compact(self)

    def convert(self, name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        yield name, weight


class Compact(nn.Module):
    def __init__(self, layout: CompactNet) -> None:
        super().__init__()
        self.scale = layout.scale
        widths = (layout.channels, *(layout.width,) * layout.layers)
        hidden: list[nn.Module] = []
        for before, width in pairwise(widths):
            hidden += [nn.Conv2d(before, width, 3, padding=1), nn.PReLU(width)]
        self.body = nn.Sequential(
            *hidden, nn.Conv2d(layout.width, layout.out * layout.scale**2, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """What is added to the picture with its pixels repeated."""
        return F.pixel_shuffle(self.body(x), self.scale) + F.interpolate(
            x, scale_factor=self.scale, mode="nearest"
        )


@frozen(eq=False)
class Upscaler:
    """run: [1, C, h, w], 0..1 -> [1, D, h * scale, w * scale]; any size; channels: those it takes."""

    run: Callable[[Tensor], Tensor]
    scale: int
    channels: int
    nbytes: int
    device: torch.device
    dtype: torch.dtype

    def working_bytes(self, shape: Sequence[int], tiles: Tiles = TILES) -> int:
        """What the largest tile of pictures [B, H, W, C] takes, about."""
        height, width = shape[1:3]
        return min(height, tiles.size) * min(width, tiles.size) * max(self.scale, 1) * _PER_PIXEL


def upscale_pixels(upscaler: Upscaler, pixels: Tensor, tiles: Tiles = TILES) -> Tensor:
    """[B, H, W, C], 0..1 -> float32 [B, H * scale, W * scale, D], 0..1, on the CPU; a grey result has D 3.

    Raises: ValueError where the network takes another number of channels.
    """
    if pixels.shape[-1] != upscaler.channels:
        raise ValueError(
            f"this upscale model takes pictures of {upscaler.channels} channels, not {pixels.shape[-1]}. "
            "Split off or add what is too much or missing."
        )

    def run(tile: Tensor) -> Tensor:
        return upscaler.run(tile.to(upscaler.device, upscaler.dtype)).float().cpu()

    large = tiled(pixels.movedim(-1, 1), run, (tiles.size, tiles.size), tiles.overlap, upscaler.scale)
    if large.shape[1] == 1:
        large = large.expand(-1, 3, -1, -1)
    return large.movedim(1, -1).clamp(0, 1).contiguous()


def load_upscaler(
    weights: Weights, device: torch.device, dtype: torch.dtype, copies: HostCopies | None = None
) -> Upscaler:
    """The network of one file. Raises: BadFile where it is damaged or of a kind that can't be read."""
    file = open_file(weights.files[0])
    for prefix in ("module.", "netG."):
        if all(name.startswith(prefix) for name in file.header):
            file = file.under(prefix)
    layout = detect(file.header)
    if layout is None:
        return _other(file, device, dtype)
    module = layout.build()
    nbytes = fill(module, file, layout.convert, device, Form(dtype), copies.of(weights) if copies else None)
    run = partial(_padded, module, layout.multiple, layout.minimum, layout.scale)
    return Upscaler(run, layout.scale, layout.channels, nbytes, device, dtype)


def _other(file: ModelFile, device: torch.device, dtype: torch.dtype) -> Upscaler:
    run, scale, channels, nbytes = load_other(file, device, dtype)
    return Upscaler(run, scale, channels, nbytes, device, dtype)


def _padded(module: nn.Module, multiple: int, minimum: int, scale: int, tile: Tensor) -> Tensor:
    """A tile of any size: padded by its mirror image to what the network asks for, and cut afterwards."""
    height, width = tile.shape[-2:]
    down, right = (-(-max(side, minimum) // multiple) * multiple - side for side in (height, width))
    mirrored = min(down, height - 1), min(right, width - 1)  # no more than there is
    tile = F.pad(tile, (0, mirrored[1], 0, mirrored[0]), "reflect")
    tile = F.pad(tile, (0, right - mirrored[1], 0, down - mirrored[0]), "replicate")
    with torch.no_grad():
        result: Tensor = module(tile).clamp(0, 1)
    return result[..., : height * scale, : width * scale]


def detect(header: Header) -> Net | None:
    """The layout of a header, None where it is none of those above."""
    if "body.0.weight" in header and "body.1.weight" in header:
        return _compact(header)
    blocks = [m for name in header if (m := _BLOCK.fullmatch(name)) is not None]
    if not blocks or any("conv1x1" in name for name in header):
        return None
    return _rrdb(header, 1 + max(int(m[1]) for m in blocks))


def _rrdb(header: Header, blocks: int) -> RrdbNet:
    if (first := "model.0.weight") in header:
        last = max(int(m[1]) for name in header if (m := re.match(r"model\.(\d+)\.", name)))
        ups, end = (last - 4) // 3, f"model.{last}.weight"
    else:
        first, end = "conv_first.weight", "conv_last.weight"
        ups = max((int(m[1]) for name in header if (m := _UP.fullmatch(name))), default=0)
    taken, out, width = header.shape(first)[1], header.shape(end)[0], header.shape(first)[0]
    growth = next(
        header.shape(name)[0]
        for name in header
        if (m := _BLOCK.fullmatch(name)) and (m[3], m[4]) == ("1", "weight")
    )
    unshuffle = math.isqrt(taken // out) if taken in (4 * out, 16 * out) else 1
    return RrdbNet(taken // unshuffle**2, out, width, growth, blocks, ups, unshuffle)


def _compact(header: Header) -> CompactNet | None:
    last = max(int(m[1]) for name in header if (m := re.match(r"body\.(\d+)\.", name)))
    if f"body.{last}.bias" not in header or len(header.shape("body.0.weight")) != 4:
        return None
    width, channels = header.shape("body.0.weight")[:2]
    shuffled = header.shape(f"body.{last}.bias")[0]
    for out in (channels, 3, 1, 4):
        scale = math.isqrt(shuffled // out)
        if out * scale**2 == shuffled and scale:
            return CompactNet(channels, out, width, last // 2, scale)
    raise BadFile(header.path, f"its {shuffled} output channels make no picture", "Try another file.")
