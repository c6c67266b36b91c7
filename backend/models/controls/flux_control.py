"""ControlNets of Flux.1: a few of its blocks, which see the hint beside the latent.

Files have diffusers' names and take an encoded picture (InstantX's; union models are told its kind,
inpainting ones a mask), or the original names and take pixels (XLabs').
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from torch import Tensor, nn

from backend.errors import UnsupportedOption
from backend.models.additions import Residuals
from backend.models.control_layout import MAKE, ControlInputs, HintFormat
from backend.models.families.flux import LATENT, NAMES, THETA, Flux, rope_axes, run_block, time_of
from backend.models.families.sequence import PATCH, angles, grid, padded, patches, to_tokens, turns
from backend.models.header import Header
from backend.values import frozen

_DOUBLE, _SINGLE = 19, 38  # blocks of the model that the additions are for
_PIXELS = (3, 16, 16, 16, 16, 16, 16, 16, 16)  # widths of the convolutions that take pixels in
_STRIDED = (2, 4, 6)


@frozen
class FluxControl:
    """flux: the blocks that it has; shown: channels of the hint's latents, 0 for pixels; modes: kinds of
    hints that a union model knows, 0 for any other.
    """

    flux: Flux
    shown: int
    modes: int = 0

    @property
    def hint(self) -> HintFormat:
        if not self.shown:
            return HintFormat()
        return HintFormat(pixels=1, latent=LATENT, masked=self.shown > LATENT.channels)

    def build(self) -> nn.Module:
        width, flux = self.flux.width, self.flux
        network: nn.Module = flux.build()
        del network.proj_out, network.norm_out
        with torch.device("meta"):
            network.controlnet_blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(flux.double))
            singles = (nn.Linear(width, width) for _ in range(flux.single))
            network.controlnet_single_blocks = nn.ModuleList(singles)
            network.controlnet_x_embedder = nn.Linear((self.shown or LATENT.channels) * PATCH**2, width)
            if self.modes:
                network.controlnet_mode_embedder = nn.Embedding(self.modes, width)
            if not self.shown:
                network.input_hint_block = _pixel_layers()
        return network

    def convert(self, name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        if name.startswith("pos_embed_input."):
            yield name.replace("pos_embed_input.", "controlnet_x_embedder."), weight
        elif name.startswith(("double_blocks.", "single_blocks.")) or name.partition(".")[0].endswith("_in"):
            yield from NAMES.convert(name, weight)
        else:
            yield name, weight

    def call(self, module: nn.Module, given: ControlInputs) -> Residuals:
        assert isinstance(module, FluxTransformer2DModel)
        if given.tokens.shape[-1] != self.flux.context or given.x.ndim != 4:
            raise UnsupportedOption("control_net", "a ControlNet of Flux with another model", MAKE)
        height, width = given.x.shape[-2:]
        hint = given.hint if self.shown else module.input_hint_block(given.hint * 2.0 - 1.0)
        hidden = module.x_embedder(to_tokens(padded(given.x)))
        hidden = hidden + module.controlnet_x_embedder(to_tokens(padded(hint)))
        text = self._text(module, given)
        places = torch.cat(
            [torch.zeros(text.shape[1], 3, dtype=torch.float64), grid(patches(height), patches(width))]
        )
        rotary = turns(angles(places, rope_axes(self.flux.head), THETA), given.x.device)
        time = time_of(module.time_text_embed, self.flux, given.timesteps, given.extra, given.x)
        double, single = list[Tensor](), list[Tensor]()
        for block, out in zip(module.transformer_blocks, module.controlnet_blocks, strict=True):
            hidden, text = run_block(block, time, rotary, hidden, text)
            double.append(out(hidden))
        for block, out in zip(module.single_transformer_blocks, module.controlnet_single_blocks, strict=True):
            hidden, text = run_block(block, time, rotary, hidden, text)
            single.append(out(hidden))
        return Residuals(blocks=self._spread(double, _DOUBLE), singles=self._spread(single, _SINGLE))

    def _text(self, module: FluxTransformer2DModel, given: ControlInputs) -> Tensor:
        text: Tensor = module.context_embedder(given.tokens)
        if not self.modes or given.kind is None:
            return text
        if given.kind >= self.modes:
            value = f"type {given.kind} of a ControlNet that knows {self.modes}"
            raise UnsupportedOption("type", value, "Choose a type that it knows.")
        mode = module.controlnet_mode_embedder.weight[given.kind].to(text)
        return torch.cat([mode.expand(len(text), 1, -1), text], dim=1)

    def _spread(self, made: Sequence[Tensor], blocks: int) -> tuple[Tensor, ...]:
        """For every block of the model: each for a stretch of blocks, or (pixels) one after the other."""
        if not made:
            return ()
        times = math.ceil(blocks / len(made))
        spread = [value for value in made for _ in range(times)] if self.shown else [*made] * times
        return tuple(spread[:blocks])


def _pixel_layers() -> nn.Sequential:
    layers: list[nn.Module] = []
    for number, (into, out) in enumerate(pairwise(_PIXELS)):
        layers += [nn.Conv2d(into, out, 3, padding=1, stride=2 if number in _STRIDED else 1), nn.SiLU()]
    return nn.Sequential(*layers[:-1])


def detect(header: Header) -> FluxControl | None:
    """A ControlNet of Flux; None for anything else."""
    if "controlnet_blocks.0.weight" not in header:
        return None
    if "double_blocks.0.img_attn.norm.key_norm.scale" in header and "input_hint_block.0.weight" in header:
        return FluxControl(_trunk(header, "double_blocks", "single_blocks", _ORIGINAL), shown=0)
    if "controlnet_x_embedder.weight" in header and "time_text_embed.text_embedder.linear_1.weight" in header:
        modes = "controlnet_mode_embedder.weight"
        return FluxControl(
            _trunk(header, "transformer_blocks", "single_transformer_blocks", _DIFFUSERS),
            shown=header.shape("controlnet_x_embedder.weight")[1] // PATCH**2,
            modes=header.shape(modes)[0] if modes in header else 0,
        )
    return None


# Where a naming has: a head's norm, the picture's, the text's and the pooled text's layers, the guidance's.
_ORIGINAL = ("img_attn.norm.key_norm.scale", "img_in", "txt_in", "vector_in.in_layer", "guidance_in.in_layer")
_DIFFUSERS = (
    "attn.norm_k.weight",
    "x_embedder",
    "context_embedder",
    "time_text_embed.text_embedder.linear_1",
    "time_text_embed.guidance_embedder.linear_1",
)


def _trunk(header: Header, double: str, single: str, names: tuple[str, ...]) -> Flux:
    head, picture, text, pooled, guidance = names
    width, patched = header.shape(f"{picture}.weight")
    return Flux(
        width=width,
        double=header.count(double + ".{}."),
        single=header.count(single + ".{}."),
        head=header.shape(f"{double}.0.{head}")[0],
        in_channels=patched // PATCH**2,
        context=header.shape(f"{text}.weight")[1],
        pooled=header.shape(f"{pooled}.weight")[1],
        guided=f"{guidance}.weight" in header,
    )
