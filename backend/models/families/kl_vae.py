"""The KL autoencoder of latent diffusion models (SD 1.x and SDXL's "kl-f8", and its 16-channel relatives).

Source of the architecture: arXiv:2112.10752, appendix G. Names as in the original checkpoints.
"""

import re
from collections.abc import Iterator
from typing import ClassVar

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn

from backend.models.header import Header
from backend.models.parts import VAE_NAMES
from backend.values import frozen

_MIDDLE = {
    "mid.block_1": "mid_block.resnets.0",
    "mid.block_2": "mid_block.resnets.1",
    "mid.attn_1": "mid_block.attentions.0",
    "norm_out": "conv_norm_out",
}
_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
# diffusers' names of the attention's layers, before they were called as everywhere else
_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD = re.compile(r"attentions\.0\.(query|key|value|proj_attn)\.")
_BLOCK = re.compile(r"(down|up)\.(\d+)\.(block\.(\d+)|downsample|upsample)\.(.+)")


@frozen
class KlLayout:
    """channels: of latents; widths: from the finest resolution to the coarsest; blocks: of each going down.

    quantised: with 1x1 convolutions between the latents and the two halves.
    """

    dimensions: ClassVar[int] = 2
    channels: int
    widths: tuple[int, ...]
    blocks: int
    quantised: bool

    @property
    def downscale(self) -> int:
        return 1 << (len(self.widths) - 1)

    def decoding(self, area: int) -> int:
        """Numbers alive at the peak of decoding `area` latent pixels.

        Measured at 32 and 128 channels, 128 to 512 pixels a side: 7 maps of the first level and a fixed part.
        """
        return (9 * area * self.downscale**2 + 131072) * self.widths[0]

    def encoding(self, area: int) -> int:
        """As `decoding`, on the way in: 5 maps of the first level and a fixed part."""
        return (6 * area * self.downscale**2 + 131072) * self.widths[0]

    def build(self) -> AutoencoderKL:
        """diffusers' autoencoder on the meta device."""
        with torch.device("meta"):
            return AutoencoderKL(
                latent_channels=self.channels,
                block_out_channels=list(self.widths),
                layers_per_block=self.blocks,
                down_block_types=["DownEncoderBlock2D"] * len(self.widths),
                up_block_types=["UpDecoderBlock2D"] * len(self.widths),
                use_quant_conv=self.quantised,
                use_post_quant_conv=self.quantised,
            )

    def encode(self, module: nn.Module, pixels: Tensor) -> Tensor:
        assert isinstance(module, AutoencoderKL)
        mean: Tensor = module.encode(pixels).latent_dist.mode()
        return mean

    def decode(self, module: nn.Module, latent: Tensor) -> Tensor:
        assert isinstance(module, AutoencoderKL)
        out: Tensor = module.decode(latent, return_dict=False)[0]
        return out

    def convert(self, name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        if name.startswith(VAE_NAMES):
            yield self._renamed(name), weight

    def _renamed(self, name: str) -> str:
        half, _, rest = name.partition(".")
        if half not in ("encoder", "decoder"):
            return name
        for theirs, ours in _MIDDLE.items():
            if rest.startswith(theirs + "."):
                rest = rest.removeprefix(theirs + ".")
                if "attn" in theirs:
                    kind, _, end = rest.rpartition(".")
                    rest = f"{_ATTENTION.get(kind, kind)}.{end}"
                return f"{half}.{ours}.{rest}"
        if (match := _BLOCK.fullmatch(rest)) is None:
            return _OLD.sub(lambda found: f"attentions.0.{_OLD_NAMES[found[1]]}.", name)
        way, level, kind, block, end = match.groups()
        # both ways are counted from the finest resolution in checkpoints; diffusers counts in running order
        place = int(level) if way == "down" else len(self.widths) - 1 - int(level)
        if block is None:
            return f"{half}.{way}_blocks.{place}.{kind}rs.0.{end}"
        return f"{half}.{way}_blocks.{place}.resnets.{block}.{end.replace('nin_shortcut', 'conv_shortcut')}"


def detect(header: Header) -> KlLayout | None:
    """A KL autoencoder with both of its halves; None where the header has none."""
    level, block = ("encoder.down_blocks.{}.", "resnets.{}.")  # diffusers' names
    if "encoder.down.0.block.0.conv1.weight" in header:
        level, block = "encoder.down.{}.", "block.{}."
    first = level + block.format(0) + "conv1.weight"
    needed = ("encoder.conv_in.weight", "decoder.conv_in.weight", first.format(0))
    if any(name not in header or len(header.shape(name)) != 4 for name in needed):
        return None
    widths = tuple(header.shape(first.format(n))[0] for n in range(header.count(level + block.format(0))))
    blocks = header.count(level.format(0) + block)
    return KlLayout(header.shape("decoder.conv_in.weight")[1], widths, blocks, "quant_conv.weight" in header)
