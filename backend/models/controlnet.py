"""ControlNets of Stable Diffusion 1.x, loaded: what they add to a UNet's pass for a picture (the hint).

Files have the names of the original checkpoints (with or without `control_model.` before them) or diffusers'.
Source of the architecture: arXiv:2302.05543, section 3.3.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from torch import Tensor

from backend.errors import BadFile, UnsupportedOption
from backend.models.adapters import adapt
from backend.models.additions import Residuals
from backend.models.families.sd15 import HEADS
from backend.models.families.unet_layout import levels_of
from backend.models.families.unet_names import Level, parts, to_diffusers
from backend.models.header import Header
from backend.models.hostcopy import Form, HostCopies
from backend.models.residual import install_residuals
from backend.models.weights import ModelFile, fill, open_file
from backend.references import Weights
from backend.resize import resize

_PREFIXES = ("control_model.", "")
_HINT = 8  # pixels of the hint per latent pixel
_DIFFERENCE = "difference"  # an empty tensor: the weights are to be added to those of a UNet
_UNET = "model.diffusion_model."
_ORIGINAL_HINT = re.compile(r"input_hint_block\.(\d+)\.(weight|bias)")
_FIXED = {"middle_block_out.0": "controlnet_mid_block"}


@dataclass(frozen=True, slots=True)
class ControlLayout:
    """A ControlNet as its header describes it.

    levels: those of the UNet it was made for; context: width of the tokens; hint: widths of the convolutions
    that take the hint in, but for the last; channels: of the hint (3) and of the latent (4).
    """

    levels: tuple[Level, ...]
    context: int
    hint: tuple[int, ...]
    channels: tuple[int, int]

    def build(self) -> ControlNetModel:
        """diffusers' ControlNet on the meta device."""
        crossed = [level.depth > 0 for level in self.levels]
        with torch.device("meta"):
            return ControlNetModel(
                conditioning_channels=self.channels[0],
                in_channels=self.channels[1],
                down_block_types=tuple("CrossAttnDownBlock2D" if c else "DownBlock2D" for c in crossed),
                block_out_channels=tuple(level.channels for level in self.levels),
                layers_per_block=self.levels[0].blocks,
                cross_attention_dim=self.context,
                attention_head_dim=HEADS,  # diffusers' name for the number of heads
                conditioning_embedding_out_channels=self.hint,
            )

    def convert(self, name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        if name != _DIFFERENCE:
            yield self._named(name), weight

    def _named(self, name: str) -> str:
        if (found := _ORIGINAL_HINT.fullmatch(name)) is not None:
            number, end = int(found[1]) // 2, found[2]
            last = 2 * len(self.hint) - 1
            place = {0: "conv_in", last: "conv_out"}.get(number, f"blocks.{number - 1}")
            return f"controlnet_cond_embedding.{place}.{end}"
        if name.startswith("zero_convs."):
            _, number_text, _, end = name.split(".")
            return f"controlnet_down_blocks.{number_text}.{end}"
        for original, place in _FIXED.items():
            if name.startswith(original + "."):
                return place + name.removeprefix(original)
        return to_diffusers(name, parts(self.levels)) or name


@dataclass(frozen=True, slots=True, eq=False)
class ControlModel:
    """nbytes: of its weights."""

    layout: ControlLayout
    module: ControlNetModel
    nbytes: int
    device: torch.device
    dtype: torch.dtype

    def forward(self, x: Tensor, hint: Tensor, timesteps: Tensor, tokens: Tensor) -> Residuals:
        """What is to be added to the pass of R rows.

        Args: x [R, 4, H, W], timesteps [R] and tokens [R, T, context] as the denoiser takes them; hint
            [R, 3, 8 H, 8 W], 0..1.
        Raises: UnsupportedOption where the tokens are those of another kind of model.
        """
        if tokens.shape[-1] != self.layout.context:
            value = f"a ControlNet for tokens {self.layout.context} wide, with tokens {tokens.shape[-1]} wide"
            raise UnsupportedOption("control_net", value, "Use a ControlNet that was made for this model.")
        x, hint, tokens = (value.to(self.device, self.dtype) for value in (x, hint, tokens))
        x, hint = (value.contiguous(memory_format=torch.channels_last) for value in (x, hint))
        with torch.no_grad():
            skips, middle = self.module(x, timesteps.to(self.device), tokens, hint, return_dict=False)
        return Residuals(tuple(skips), middle)


def fitted_hint(image: Tensor, dims: tuple[int, int]) -> Tensor:
    """A picture [B, H, W, C] for a latent of dims (h, w): [B, C, 8 h, 8 w], its middle cut out to fit."""
    height, width = (side * _HINT for side in dims)
    return resize(image.movedim(-1, 1), width, height, "nearest-exact", "center")


def scaled(residuals: Residuals, strengths: Tensor, average: bool) -> Residuals:
    """Each row's residuals by its strength, float32 [R]. average: over the picture first."""

    def one(value: Tensor) -> Tensor:
        if average:
            value = value.mean(dim=(2, 3), keepdim=True).expand_as(value)
        return value * strengths.to(value).reshape(-1, 1, 1, 1)

    return Residuals(tuple(one(skip) for skip in residuals.skips), one(residuals.middle))


def load_controlnet(
    weights: Weights, device: torch.device, dtype: torch.dtype, copies: HostCopies | None = None
) -> ControlModel:
    """A ControlNet of one file; a second file is the checkpoint that a difference model is added to.

    Raises: BadFile where the file is no ControlNet of Stable Diffusion 1.x, or damaged.
    """
    file = open_file(weights.files[0])
    for prefix in _PREFIXES:
        part = file.under(prefix)
        if (layout := detect(part.header)) is not None:
            break
    else:
        remedy = "Use a ControlNet made for Stable Diffusion 1.x."
        raise BadFile(weights.files[0].path, "no such ControlNet is in it", remedy)
    if _DIFFERENCE in file.header and len(weights.files) > 1:
        part = _added(part, open_file(weights.files[1]))
    elif _DIFFERENCE in file.header:
        remedy = "Load it with DiffControlNetLoader and the checkpoint it was made from."
        raise BadFile(weights.files[0].path, "it holds the difference to a model only", remedy)
    module = layout.build()
    install_residuals(module)
    adapt(module)
    form = Form(dtype, channels_last=True)
    nbytes = fill(module, part, layout.convert, device, form, copies.of(weights) if copies else None)
    return ControlModel(layout, module, nbytes, device, dtype)


def detect(header: Header) -> ControlLayout | None:
    """The layout of a ControlNet's header (names without prefix), None for any other file."""
    if "controlnet_cond_embedding.conv_in.weight" in header:
        hint = [header.shape("controlnet_cond_embedding.conv_in.weight")]
        count = header.count("controlnet_cond_embedding.blocks.{}.")
        hint += [header.shape(f"controlnet_cond_embedding.blocks.{n}.weight") for n in range(count)]
        levels = _diffusers_levels(header)
        context = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
        proj, first = "mid_block.attentions.0.proj_in.weight", "conv_in.weight"
    elif "zero_convs.0.0.weight" in header and "input_hint_block.0.weight" in header:
        numbers = [n for n in range(0, 100, 2) if f"input_hint_block.{n}.weight" in header]
        hint = [header.shape(f"input_hint_block.{n}.weight") for n in numbers[:-1]]
        levels, context = levels_of(header), "middle_block.1.transformer_blocks.0.attn2.to_k.weight"
        proj, first = "middle_block.1.proj_in.weight", "input_blocks.0.0.weight"
    else:
        return None
    if levels is None or context not in header or len(header.shape(proj)) != 4:
        return None
    if len({level.blocks for level in levels}) != 1:
        return None
    widths = tuple(shape[0] for shape in (hint[0], *hint[2::2]))
    channels = (hint[0][1], header.shape(first)[1])
    return ControlLayout(levels, header.shape(context)[1], widths, channels)


def _diffusers_levels(header: Header) -> tuple[Level, ...] | None:
    levels = []
    for number in range(header.count("down_blocks.{}.")):
        block = f"down_blocks.{number}"
        channels = header.shape(f"{block}.resnets.0.conv1.weight")[0]
        depth = header.count(f"{block}.attentions.0.transformer_blocks." + "{}.")
        levels.append(Level(channels, header.count(f"{block}.resnets." + "{}."), depth))
    return tuple(levels) if levels and all(level.depth <= 1 for level in levels) else None


def _added(part: ModelFile, base: ModelFile) -> ModelFile:
    """A difference model with its base's weights added, tensor by tensor of equal name."""
    unet: Mapping[str, Tensor] = dict(base.under(_UNET).tensors())
    sums = {
        part.header.prefix + name: value + unet[name].to(value.dtype) if name in unet else value
        for name, value in part.tensors()
    }
    base.check()
    return ModelFile(part.header, sums, part.file)
