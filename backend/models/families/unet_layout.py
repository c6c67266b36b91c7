"""The UNets of SD 1.x and SDXL as their tensors describe them: levels, depths, widths.

Source of the architecture: arXiv:2112.10752, appendix E; names as in the original checkpoints.
"""

from collections.abc import Iterator, Sequence

import torch
from diffusers.models.unets.unet_2d_blocks import UNetMidBlock2DCrossAttn
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from backend.models.families import attention
from backend.models.families.unet_names import Level, lora_names, parts, to_diffusers
from backend.models.header import Header
from backend.models.parts import MARKS
from backend.values import frozen

CHANNELS = 4  # of latents
_GROUPS = 32  # of the group norms


@frozen
class UnetLayout:
    """levels: from the finest resolution to the coarsest; in_channels: of the input; context: width of the
    tokens; embedding: of the time embedding; middle: transformer blocks in the middle; classes: width of the
    vector that joins the time embedding, None without one; linear: transformers are fed by linear layers, not
    1x1 convolutions.
    """

    levels: tuple[Level, ...]
    in_channels: int
    context: int
    embedding: int
    middle: int = 1
    classes: int | None = None
    linear: bool = False

    def build(self, heads: Sequence[int]) -> UNet2DConditionModel:
        """diffusers' UNet on the meta device. heads: of attention, at each level."""
        crossed = [level.depth > 0 for level in self.levels]
        with torch.device("meta"):
            network = UNet2DConditionModel(
                in_channels=self.in_channels,
                out_channels=CHANNELS,
                block_out_channels=[level.channels for level in self.levels],
                layers_per_block=[level.blocks for level in self.levels],
                down_block_types=["CrossAttnDownBlock2D" if c else "DownBlock2D" for c in crossed],
                up_block_types=["CrossAttnUpBlock2D" if c else "UpBlock2D" for c in reversed(crossed)],
                transformer_layers_per_block=[level.depth or 1 for level in self.levels],
                cross_attention_dim=self.context,
                attention_head_dim=list(heads),  # diffusers' name for the number of heads
                use_linear_projection=self.linear,
                addition_embed_type="text_time" if self.classes is not None else None,
                addition_time_embed_dim=256 if self.classes is not None else None,
                projection_class_embeddings_input_dim=self.classes,
            )
            network.mid_block = self.middle_block(heads[-1])
        attention.install(network)
        return network

    def middle_block(self, heads: int) -> UNetMidBlock2DCrossAttn:
        """The middle: diffusers builds it as deep as the last level, which need not be so."""
        return UNetMidBlock2DCrossAttn(
            in_channels=self.levels[-1].channels,
            temb_channels=self.levels[0].channels * 4,
            transformer_layers_per_block=self.middle,
            resnet_eps=1e-5,
            resnet_groups=_GROUPS,
            num_attention_heads=heads,
            cross_attention_dim=self.context,
            use_linear_projection=self.linear,
        )

    def convert(self, name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        """A tensor by its checkpoint's name -> by diffusers'."""
        if name not in MARKS:
            yield to_diffusers(name, parts(self.levels)) or name, weight

    def activations(self, area: int) -> int:
        """30 to 48 maps of the first level: measured on 64 and 320 channels, 32 x 32 and 64 x 64."""
        return (40 * area + 8192) * self.levels[0].channels

    def lora_names(self, site: str) -> tuple[str, ...]:
        return lora_names(site, parts(self.levels))


def read(header: Header) -> UnetLayout | None:
    """The UNet of a header (without prefix; original or diffusers' names); None for anything else."""
    if "out.2.weight" not in header and "conv_out.weight" not in header:
        return None
    return trunk(header)


def trunk(header: Header) -> UnetLayout | None:
    """The way down and the middle of a UNet, which is what ControlNets have of it."""
    names = next((names for names in (_ORIGINAL, _DIFFUSERS) if names.first in header), None)
    if names is None or not header.has(names.time, names.projection):
        return None
    levels = levels_of(header) if names is _ORIGINAL else _diffusers_levels(header)
    crossed = next((name for name in sorted(header) if name.endswith(".attn2.to_k.weight")), None)
    if levels is None or crossed is None:
        return None
    return UnetLayout(
        levels,
        in_channels=header.shape(names.first)[1],
        context=header.shape(crossed)[1],
        embedding=header.shape(names.time)[0],
        middle=header.count(names.middle),
        classes=header.shape(names.classes)[1] if names.classes in header else None,
        linear=len(header.shape(names.projection)) == 2,
    )


@frozen
class _Names:
    """Where a naming has what is read. middle: of its transformer blocks, with a place for a number."""

    first: str
    time: str
    projection: str
    middle: str
    classes: str


_ORIGINAL = _Names(
    "input_blocks.0.0.weight",
    "time_embed.0.weight",
    "middle_block.1.proj_in.weight",
    "middle_block.1.transformer_blocks.{}.",
    "label_emb.0.0.weight",
)
_DIFFUSERS = _Names(
    "conv_in.weight",
    "time_embedding.linear_1.weight",
    "mid_block.attentions.0.proj_in.weight",
    "mid_block.attentions.0.transformer_blocks.{}.",
    "add_embedding.linear_1.weight",
)


def _diffusers_levels(header: Header) -> tuple[Level, ...] | None:
    levels = []
    for number in range(header.count("down_blocks.{}.")):
        block = f"down_blocks.{number}"
        channels = header.shape(f"{block}.resnets.0.conv1.weight")[0]
        depth = header.count(f"{block}.attentions.0.transformer_blocks." + "{}.")
        levels.append(Level(channels, header.count(f"{block}.resnets." + "{}."), depth))
    return tuple(levels) or None


def levels_of(header: Header) -> tuple[Level, ...] | None:
    """The levels on the way down; None where the blocks of one differ."""
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
    if any(len(set(level)) != 1 for level in levels):
        return None
    return tuple(Level(level[0][0], len(level), level[0][1]) for level in levels)


def marked(header: Header, mark: str) -> bool:
    """Whether an empty tensor says something of the model, in the file or beside its network."""
    return mark in header.marks or mark in header
