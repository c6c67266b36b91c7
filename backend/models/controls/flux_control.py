"""ControlNets of Flux.1, in diffusers' names (InstantX's, Shakker Labs' and their unions).

The hint is encoded by Flux's autoencoder. Source: diffusers' FluxControlNetModel.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from diffusers.models.controlnets.controlnet_flux import FluxControlNetModel
from torch import Tensor, nn

from backend.errors import UnsupportedOption
from backend.models.additions import Residuals
from backend.models.control_layout import MAKE, ControlInputs, HintFormat
from backend.models.families import flux
from backend.models.families.sequence import PATCH, angles, grid, padded, patches, to_tokens, turns
from backend.models.header import Header


@dataclass(frozen=True, slots=True)
class FluxControl:
    """network: the part of Flux that it is; channels: of the hint; kinds: of hints that a union knows, or
    0.
    """

    network: flux.Flux
    channels: int
    kinds: int

    @property
    def hint(self) -> HintFormat:
        return HintFormat(latent=flux.LATENT, masked=self.channels > flux.LATENT.channels)

    def build(self) -> FluxControlNetModel:
        own = self.network
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of diffusers about its own parts
            network = FluxControlNetModel(
                in_channels=own.in_channels * PATCH**2,
                num_layers=own.double,
                num_single_layers=own.single,
                attention_head_dim=own.head,
                num_attention_heads=own.width // own.head,
                joint_attention_dim=own.context,
                pooled_projection_dim=own.pooled,
                guidance_embeds=own.guided,
                axes_dims_rope=list(flux.rope_axes(own.head)),
                num_mode=self.kinds or None,  # None: no union
            )
            network.controlnet_x_embedder = nn.Linear(self.channels * PATCH**2, own.width)
        return network

    def convert(self, name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        yield name, weight

    def call(self, module: nn.Module, given: ControlInputs) -> Residuals:
        assert isinstance(module, FluxControlNetModel)
        if given.tokens.shape[-1] != self.network.context or given.x.shape[1] != self.network.in_channels:
            value = f"a ControlNet of Flux, with tokens {given.tokens.shape[-1]} wide"
            raise UnsupportedOption("control_net", value, MAKE)
        height, width = given.x.shape[-2:]
        text, places = module.context_embedder(given.tokens), grid(patches(height), patches(width))
        if given.kind is not None and self.kinds:
            kind = torch.full((len(text), 1), given.kind, device=text.device)
            text = torch.cat([module.controlnet_mode_embedder(kind).to(text), text], dim=1)
        places = torch.cat([torch.zeros(text.shape[1], 3, dtype=torch.float64), places])
        rotary = turns(angles(places, flux.rope_axes(self.network.head), flux.THETA), text.device)
        time = flux.time_of(module.time_text_embed, self.network, given.timesteps, given.extra, given.x)
        hidden = module.x_embedder(to_tokens(padded(given.x)))
        hidden = hidden + module.controlnet_x_embedder(to_tokens(padded(given.hint)))
        doubles, singles = list[Tensor](), list[Tensor]()
        for block, out in zip(module.transformer_blocks, module.controlnet_blocks, strict=True):
            hidden, text = flux.run_block(block, time, rotary, hidden, text)
            doubles.append(out(hidden))
        for block, out in zip(module.single_transformer_blocks, module.controlnet_single_blocks, strict=True):
            hidden, text = flux.run_block(block, time, rotary, hidden, text)
            singles.append(out(hidden))
        return Residuals(blocks=tuple(doubles), singles=tuple(singles))


def detect(header: Header) -> FluxControl | None:
    """A ControlNet over Flux's blocks; None for anything else."""
    needed = (
        "controlnet_x_embedder.weight",
        "x_embedder.weight",
        "context_embedder.weight",
        "time_text_embed.text_embedder.linear_1.weight",
        "transformer_blocks.0.attn.norm_added_q.weight",
    )
    if any(name not in header for name in needed) or "pos_embed_input.proj.weight" in header:
        return None
    width, shown = header.shape("x_embedder.weight")
    guided = "time_text_embed.guidance_embedder.linear_1.weight" in header
    network = flux.Flux(
        width,
        header.count("transformer_blocks.{}."),
        header.count("single_transformer_blocks.{}."),
        header.shape("transformer_blocks.0.attn.norm_added_q.weight")[0],
        shown // PATCH**2,
        header.shape("context_embedder.weight")[1],
        header.shape("time_text_embed.text_embedder.linear_1.weight")[1],
        guided,
    )
    modes = "controlnet_mode_embedder.weight"
    kinds = header.shape(modes)[0] if modes in header else 0
    return FluxControl(network, header.shape("controlnet_x_embedder.weight")[1] // PATCH**2, kinds)
