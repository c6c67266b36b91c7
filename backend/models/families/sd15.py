"""Stable Diffusion 1.x: a UNet over 4 latent channels, steered by CLIP-L; inpainting models have 9 inputs.

Everything but the number of heads is read from the file, so reduced and pruned models load too.
Source of the architecture: arXiv:2112.10752, appendix E; names as in the original checkpoints.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from backend.models.additions import NO_ADDITIONS, Additions
from backend.models.conditioning import NO_INPUTS, Given, Inputs
from backend.models.families import inpainting, mid_attention, unet
from backend.models.families.unet_names import Level, lora_names, parts, to_diffusers
from backend.models.header import Header
from backend.models.latent import LatentFormat
from backend.models.parts import MARKS
from backend.sampling.discretization import Table, scaled_linear
from backend.sampling.prediction import Prediction

LATENT = LatentFormat(
    channels=4,
    downscale=8,
    scale=0.18215,
    rgb=(
        (0.3512, 0.2297, 0.3227),
        (0.3250, 0.4974, 0.2350),
        (-0.2829, 0.1762, 0.2721),
        (-0.2120, -0.2616, -0.7177),
    ),
)
HEADS = 8  # at every level; the only number that the tensors' shapes do not tell
BLANK = (
    0.8223,
    -0.6876,
    0.6364,
    0.1380,
)  # a grey image in the model's units: what an inpainting model sees unasked
OPTIONS = inpainting.OPTIONS


@cache
def noise_range(zero_terminal: bool = False) -> Table:
    """Stable Diffusion's; a zero-terminal one for models that were trained so."""
    return scaled_linear(zero_terminal=zero_terminal)


@dataclass(frozen=True, slots=True)
class Sd15:
    """levels: from the finest resolution to the coarsest; embedding: width of the time embedding; v: it
    predicts v, not the noise.
    """

    levels: tuple[Level, ...]
    in_channels: int
    context: int
    embedding: int
    v: bool = False

    @property
    def prediction(self) -> Prediction:
        return Prediction("v" if self.v else "eps", noise_range())

    @property
    def mixes_lengths(self) -> bool:
        return True

    @property
    def latent(self) -> LatentFormat:
        return LATENT

    def build(self) -> UNet2DConditionModel:
        """diffusers' UNet on the meta device."""
        crossed = [level.depth > 0 for level in self.levels]
        with torch.device("meta"):
            network = UNet2DConditionModel(
                in_channels=self.in_channels,
                out_channels=LATENT.channels,
                block_out_channels=[level.channels for level in self.levels],
                layers_per_block=[level.blocks for level in self.levels],
                down_block_types=["CrossAttnDownBlock2D" if c else "DownBlock2D" for c in crossed],
                up_block_types=["CrossAttnUpBlock2D" if c else "UpBlock2D" for c in reversed(crossed)],
                cross_attention_dim=self.context,
                attention_head_dim=HEADS,  # diffusers' name for the number of heads
            )
        mid_attention.install(network)
        return network

    def convert(self, name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        if name not in MARKS:
            yield to_diffusers(name, parts(self.levels)) or name, weight

    def conditioning(self, given: Given) -> Inputs:
        """`concat` [B, 5, h, w] for inpainting models."""
        if self.in_channels == LATENT.channels:
            return NO_INPUTS
        shown = inpainting.masked_picture(given, LATENT)
        return NO_INPUTS if shown is None else Inputs(placed={"concat": shown})

    def call(
        self,
        module: nn.Module,
        x: Tensor,
        timesteps: Tensor,
        tokens: Tensor,
        extra: Mapping[str, Tensor],
        additions: Additions = NO_ADDITIONS,
    ) -> Tensor:
        """extra: `concat` [R, 5, H, W], mask and masked latent of an inpainting model, in its units."""
        if self.in_channels > LATENT.channels:
            x = torch.cat(
                [x, extra["concat"] if "concat" in extra else inpainting.blank_picture(x, BLANK)], dim=1
            )
        assert isinstance(module, UNet2DConditionModel)
        return unet.forward(module, x, unet.time_embedding(module, timesteps, x.dtype), tokens, additions)

    def activations(self, area: int) -> int:
        """30 to 48 maps of the first level: measured on 64 and 320 channels, 32 x 32 and 64 x 64."""
        return (40 * area + 8192) * self.levels[0].channels

    def lora_names(self, site: str) -> tuple[str, ...]:
        return lora_names(site, parts(self.levels))


def detect(header: Header) -> Sd15 | None:
    """SD 1.x: transformers fed through 1x1 convolutions, and no class or size embedding beside the time."""
    needed = (
        "input_blocks.0.0.weight",
        "middle_block.1.proj_in.weight",
        "time_embed.0.weight",
        "out.2.weight",
    )
    if any(name not in header for name in needed) or "label_emb.0.0.weight" in header:
        return None
    if len(header.shape("middle_block.1.proj_in.weight")) != 4:
        return None
    in_channels = header.shape("input_blocks.0.0.weight")[1]
    cross = "middle_block.1.transformer_blocks.0.attn2.to_k.weight"
    levels = levels_of(header)
    if in_channels not in (4, 9) or cross not in header or levels is None:
        return None
    v = "v_pred" in header.marks or "v_pred" in header
    embedding = header.shape("time_embed.0.weight")[0]
    return Sd15(levels, in_channels, header.shape(cross)[1], embedding, v)


def levels_of(header: Header) -> tuple[Level, ...] | None:
    """The levels on the way down; None where their blocks differ in a way that no SD 1.x model has."""
    levels: list[list[tuple[int, int]]] = [[]]
    number = 1
    while any(f"input_blocks.{number}.0.{part}.weight" in header for part in ("op", "out_layers.3")):
        if f"input_blocks.{number}.0.op.weight" in header:
            levels.append([])
        else:
            channels = header.shape(f"input_blocks.{number}.0.out_layers.3.weight")[0]
            depth = header.count(f"input_blocks.{number}.1.transformer_blocks." + "{}.")
            levels[-1].append((channels, depth))
        number += 1
    if any(len(set(level)) != 1 or level[0][1] > 1 for level in levels):
        return None
    return tuple(Level(level[0][0], len(level), level[0][1]) for level in levels)
