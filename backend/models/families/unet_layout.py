"""The UNets of SD 1.x and SDXL as their tensors describe them: levels, depths, widths.

Source of the architecture: arXiv:2112.10752, appendix E; names as in the original checkpoints.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from backend.models.families import attention
from backend.models.families.unet_names import Level, lora_names, parts, to_diffusers
from backend.models.header import Header
from backend.models.parts import MARKS

CHANNELS = 4  # of latents
_NEEDED = ("input_blocks.0.0.weight", "middle_block.1.proj_in.weight", "time_embed.0.weight", "out.2.weight")
_CROSS = "middle_block.1.transformer_blocks.0.attn2.to_k.weight"
_PROJECTION = "middle_block.1.proj_in.weight"
_CLASSES = "label_emb.0.0.weight"


@dataclass(frozen=True, slots=True)
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

    def build(self, heads: tuple[int, ...]) -> UNet2DConditionModel:
        """diffusers' UNet on the meta device. heads: of attention, at each level."""
        crossed = [level.depth > 0 for level in self.levels]
        depths = [level.depth or 1 for level in self.levels]
        if not crossed[-1]:
            depths[-1] = self.middle  # diffusers goes by the last level there
        joined = self.classes is not None
        with torch.device("meta"):
            network = UNet2DConditionModel(
                in_channels=self.in_channels,
                out_channels=CHANNELS,
                block_out_channels=[level.channels for level in self.levels],
                layers_per_block=[level.blocks for level in self.levels],
                down_block_types=["CrossAttnDownBlock2D" if c else "DownBlock2D" for c in crossed],
                up_block_types=["CrossAttnUpBlock2D" if c else "UpBlock2D" for c in reversed(crossed)],
                transformer_layers_per_block=depths,
                cross_attention_dim=self.context,
                attention_head_dim=list(heads),  # diffusers' name for the number of heads
                use_linear_projection=self.linear,
                addition_embed_type="text_time" if joined else None,
                addition_time_embed_dim=256 if joined else None,
                projection_class_embeddings_input_dim=self.classes,
            )
        attention.install(network)
        return network

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
    """The UNet of a header (names without prefix); None where it is none of these kinds."""
    if any(name not in header for name in (*_NEEDED, _CROSS)):
        return None
    levels = levels_of(header)
    middle = header.count("middle_block.1.transformer_blocks.{}.")
    if levels is None or levels[-1].depth not in (0, middle):
        return None
    return UnetLayout(
        levels,
        in_channels=header.shape("input_blocks.0.0.weight")[1],
        context=header.shape(_CROSS)[1],
        embedding=header.shape("time_embed.0.weight")[0],
        middle=middle,
        classes=header.shape(_CLASSES)[1] if _CLASSES in header else None,
        linear=len(header.shape(_PROJECTION)) == 2,
    )


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
