"""ControlNets of SD 1.x and SDXL: a copy of the UNet's way down that sees the hint. arXiv:2302.05543.

Files have the names of the original checkpoints (with or without `control_model.` before them) or diffusers'.
A union model is for several kinds of hints, and told which one it gets: https://github.com/xinsir6/ControlNetPlus.
"""

import re
from collections.abc import Iterator

import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from torch import Tensor, nn

from backend.errors import UnsupportedOption
from backend.models.additions import Residuals
from backend.models.clip_block import ClipBlock, in_our_names
from backend.models.control_layout import MAKE, ControlInputs, HintFormat
from backend.models.families import unet
from backend.models.families.sd15 import HEADS
from backend.models.families.sdxl import HEAD, embedded
from backend.models.families.unet_layout import UnetLayout, trunk
from backend.models.families.unet_names import parts, to_diffusers
from backend.models.header import Header
from backend.values import frozen

_ORIGINAL_HINT = re.compile(r"input_hint_block\.(\d+)\.(weight|bias)")
_FIXED = {"middle_block_out.0": "controlnet_mid_block"}
_UNION = ("task_embedding", "transformer_layes.", "spatial_ch_projs.", "control_add_embedding.")
_MARKS = ("difference", "lora_controlnet")  # empty tensors that say what the file is


@frozen
class UnetControl:
    """unet: what it was made for; hints: widths of the convolutions that take the hint in, but for the last;
    channels: of the hint; kinds: of hints that a union model was trained on, 0 for any other.
    """

    unet: UnetLayout
    hints: tuple[int, ...]
    channels: int
    kinds: int = 0

    @property
    def hint(self) -> HintFormat:
        return HintFormat(pixels=1 << (len(self.hints) - 1))

    @property
    def _heads(self) -> tuple[int, ...]:
        wide = self.unet.linear
        return tuple(level.channels // HEAD if wide else HEADS for level in self.unet.levels)

    def build(self) -> ControlNetModel:
        """diffusers' ControlNet on the meta device, with a union model's own parts."""
        levels = self.unet.levels
        joined = self.unet.classes is not None
        with torch.device("meta"):
            module = ControlNetModel(
                conditioning_channels=self.channels,
                in_channels=self.unet.in_channels,
                down_block_types=tuple("CrossAttnDownBlock2D" if x.depth else "DownBlock2D" for x in levels),
                block_out_channels=tuple(level.channels for level in levels),
                layers_per_block=levels[0].blocks,
                transformer_layers_per_block=tuple(level.depth or 1 for level in levels),
                cross_attention_dim=self.unet.context,
                attention_head_dim=self._heads,  # diffusers' name for the number of heads
                use_linear_projection=self.unet.linear,
                addition_embed_type="text_time" if joined else None,
                addition_time_embed_dim=256 if joined else None,
                projection_class_embeddings_input_dim=self.unet.classes,
                conditioning_embedding_out_channels=self.hints,
            )
            module.mid_block = self.unet.middle_block(self._heads[-1])
            if self.kinds:
                module.union = Union(self.kinds, levels[0].channels)
        return module

    def convert(self, name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        if name in _MARKS:
            return
        if name.startswith(_UNION):
            yield "union." + in_our_names(name), weight
        else:
            yield self._named(name), weight

    def _named(self, name: str) -> str:
        if (found := _ORIGINAL_HINT.fullmatch(name)) is not None:
            number, end = int(found[1]) // 2, found[2]
            last = 2 * len(self.hints) - 1
            place = {0: "conv_in", last: "conv_out"}.get(number, f"blocks.{number - 1}")
            return f"controlnet_cond_embedding.{place}.{end}"
        if name.startswith("zero_convs."):
            _, number_text, _, end = name.split(".")
            return f"controlnet_down_blocks.{number_text}.{end}"
        for original, place in _FIXED.items():
            if name.startswith(original + "."):
                return place + name.removeprefix(original)
        return to_diffusers(name, parts(self.unet.levels)) or name

    def call(self, module: nn.Module, given: ControlInputs) -> Residuals:
        assert isinstance(module, ControlNetModel)
        if given.tokens.shape[-1] != self.unet.context:
            made, got = self.unet.context, given.tokens.shape[-1]
            value = f"a ControlNet for tokens {made} wide, with tokens {got} wide"
            raise UnsupportedOption("control_net", value, MAKE)
        embedding = unet.time_embedding(module, given.timesteps, given.x.dtype)
        guided = module.controlnet_cond_embedding(given.hint)
        if self.kinds:
            embedding, guided = self._told(module.union, given.kind, embedding, guided)
        if self.unet.classes is not None:
            embedding = embedding + module.add_embedding(given.own("y"))
        first = module.conv_in(given.x) + guided
        skips, middle = unet.trunk(module, first, embedding, given.tokens)
        zeroed = zip(module.controlnet_down_blocks, skips, strict=True)
        return Residuals(tuple(layer(skip) for layer, skip in zeroed), module.controlnet_mid_block(middle))

    def _told(
        self, union: "Union", kind: int | None, embedding: Tensor, guided: Tensor
    ) -> tuple[Tensor, Tensor]:
        """A union model's time embedding and hint, with the kind of the hint in them."""
        if kind is not None and kind >= self.kinds:
            value = f"type {kind} of a ControlNet that knows {self.kinds}"
            raise UnsupportedOption("type", value, "Use the union ControlNet that has it (ProMax).")
        embedding = embedding + union.told(kind).to(embedding)
        return embedding, guided if kind is None else union.merged(guided, kind)


class Union(nn.Module):
    """What a union model has beside the ControlNet. Names as in its checkpoint, spelling included."""

    def __init__(self, kinds: int, width: int) -> None:
        super().__init__()
        self.kinds = kinds
        self.task_embedding = nn.Parameter(torch.empty(kinds, width))
        self.transformer_layes = nn.ModuleList([ClipBlock(width)])
        self.spatial_ch_projs = nn.Linear(width, width)
        self.control_add_embedding = _KindEmbedding(kinds, 4 * width)

    def told(self, kind: int | None) -> Tensor:
        """What joins the time embedding, [1, E]."""
        chosen = [float(number == kind) for number in range(self.kinds)]
        made: Tensor = self.control_add_embedding(embedded(chosen).to(self.task_embedding))
        return made

    def merged(self, guided: Tensor, kind: int) -> Tensor:
        """guided [R, C, h, w] moved by what the whole of it, and its kind, say."""
        x = (guided.mean((2, 3)) + self.task_embedding[kind])[:, None]
        for block in self.transformer_layes:
            x = block(x)
        moved: Tensor = guided + self.spatial_ch_projs(x[:, 0])[..., None, None]
        return moved


class _KindEmbedding(nn.Module):
    def __init__(self, kinds: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(256 * kinds, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear_2(nn.functional.silu(self.linear_1(x)))
        return out


def detect(header: Header) -> UnetControl | None:
    """The layout of a ControlNet's header (names without prefix), None for any other file."""
    if "controlnet_cond_embedding.conv_in.weight" in header:
        hint = [header.shape("controlnet_cond_embedding.conv_in.weight")]
        count = header.count("controlnet_cond_embedding.blocks.{}.")
        hint += [header.shape(f"controlnet_cond_embedding.blocks.{n}.weight") for n in range(count)]
    elif "zero_convs.0.0.weight" in header and "input_hint_block.0.weight" in header:
        numbers = [n for n in range(0, 100, 2) if f"input_hint_block.{n}.weight" in header]
        hint = [header.shape(f"input_hint_block.{n}.weight") for n in numbers[:-1]]
    else:
        return None
    made_for = trunk(header)
    if made_for is None or len({level.blocks for level in made_for.levels}) != 1:
        return None
    widths = tuple(shape[0] for shape in (hint[0], *hint[2::2]))
    kinds = header.shape("task_embedding")[0] if "task_embedding" in header else 0
    return UnetControl(made_for, widths, hint[0][1], kinds)
