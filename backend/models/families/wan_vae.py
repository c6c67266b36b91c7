"""Wan's autoencoder, Qwen-Image's too: pictures as videos of one frame. Four frames become one latent one.

Source: arXiv:2503.20314, section 4.1. Names as in the original checkpoints; the network is diffusers'.
"""

import re
from collections.abc import Iterator
from typing import ClassVar

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor, nn

from backend.models.header import Header
from backend.values import frozen

_PARTS = {
    "residual.0": "norm1",
    "residual.2": "conv1",
    "residual.3": "norm2",
    "residual.6": "conv2",
    "shortcut": "conv_shortcut",
}
_MIDDLE = {
    "middle.0": "mid_block.resnets.0",
    "middle.1": "mid_block.attentions.0",
    "middle.2": "mid_block.resnets.1",
}
_ENDS = {"conv1": "conv_in", "head.0": "norm_out", "head.2": "conv_out"}
_QUANT = {"conv1": "quant_conv", "conv2": "post_quant_conv"}
_BLOCK = re.compile(r"(downsamples|upsamples)\.(\d+)\.(.+)")


@frozen
class WanVaeLayout:
    """channels: of latents; base: of the finest resolution; factors: of the others, from the finest on;
    blocks: of each going in; temporal: whether each halving of the size halves the number of frames too.
    """

    dimensions: ClassVar[int] = 3
    channels: int
    base: int
    factors: tuple[int, ...]
    blocks: int
    temporal: tuple[bool, ...]

    @property
    def downscale(self) -> int:
        return 1 << len(self.temporal)

    def build(self) -> AutoencoderKLWan:
        with torch.device("meta"):
            return AutoencoderKLWan(
                base_dim=self.base,
                z_dim=self.channels,
                dim_mult=list(self.factors),
                num_res_blocks=self.blocks,
                temperal_downsample=list(self.temporal),
            )

    def convert(self, name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        layer, _, end = name.rpartition(".")
        yield f"{self._renamed(layer)}.{end}", weight

    def encode(self, module: nn.Module, pixels: Tensor) -> Tensor:
        """Frames beyond the last whole four are left out, as in the original."""
        assert isinstance(module, AutoencoderKLWan)
        mean: Tensor = module.encode(pixels).latent_dist.mode()
        return mean

    def decode(self, module: nn.Module, latent: Tensor) -> Tensor:
        """Frame by frame. Not clipped, unlike diffusers' own `decode`: tiles are blended first."""
        assert isinstance(module, AutoencoderKLWan)
        module.clear_cache()  # what each convolution kept of the frames before
        frames: list[Tensor] = []
        for number, frame in enumerate(module.post_quant_conv(latent).split(1, dim=2)):
            module._conv_idx = [0]
            kept = {"feat_cache": module._feat_map, "feat_idx": module._conv_idx}
            frames.append(module.decoder(frame, **kept, first_chunk=number == 0))
        module.clear_cache()
        return torch.cat(frames, dim=2)

    def decoding(self, area: int) -> int:
        """Numbers alive at the peak of decoding `area` latent pixels: of one frame, and four in its place."""
        return 24 * area * self.downscale**2 * self.base

    def encoding(self, area: int) -> int:
        """As `decoding`, on the way in."""
        return 16 * area * self.downscale**2 * self.base

    def _renamed(self, layer: str) -> str:
        half, _, rest = layer.partition(".")
        if half not in ("encoder", "decoder"):
            return _QUANT.get(layer, layer)
        if rest in _ENDS:
            return f"{half}.{_ENDS[rest]}"
        for theirs, ours in _MIDDLE.items():
            if rest.startswith(theirs + "."):
                part = rest.removeprefix(theirs + ".")
                return f"{half}.{ours}.{_PARTS.get(part, part)}"
        if (match := _BLOCK.fullmatch(rest)) is None:
            return layer
        way, number, part = match.groups()
        part = _PARTS.get(part, part)
        if way == "downsamples":
            return f"{half}.down_blocks.{number}.{part}"
        level, place = divmod(
            int(number), self.blocks + 2
        )  # one more block than going in, and the resampling
        inner = "upsamplers.0" if place > self.blocks else f"resnets.{place}"
        return f"{half}.up_blocks.{level}.{inner}.{part}"


def detect(header: Header) -> WanVaeLayout | None:
    """Wan 2.1's autoencoder with both of its halves; None where the header has none."""
    needed = (
        "encoder.conv1.weight",
        "decoder.conv1.weight",
        "conv2.weight",
        "decoder.middle.0.residual.0.gamma",
    )
    if not header.has(*needed) or len(header.shape("encoder.conv1.weight")) != 5:
        return None
    base, pixels = header.shape("encoder.conv1.weight")[:2]
    if pixels != 3:  # Wan 2.2's works on patches of pixels
        return None
    levels: list[list[int]] = [[]]
    temporal: list[bool] = []
    for number in range(header.count("encoder.downsamples.{}.")):
        block = f"encoder.downsamples.{number}"
        if f"{block}.resample.1.weight" in header:
            temporal.append(f"{block}.time_conv.weight" in header)
            levels.append([])
        else:
            levels[-1].append(header.shape(f"{block}.residual.6.weight")[0])
    factors = tuple(level[0] // base for level in levels)
    channels = header.shape("conv2.weight")[0]
    return WanVaeLayout(channels, base, factors, len(levels[0]), tuple(temporal))
