"""ControlNets of SD3, in diffusers' names (InstantX's, alimama's inpainting).

The hint is encoded by SD3's autoencoder. Source: diffusers' SD3ControlNetModel.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import isqrt

import torch
from diffusers.models.controlnets.controlnet_sd3 import SD3ControlNetModel
from torch import Tensor, nn

from backend.errors import UnsupportedOption
from backend.models.additions import Residuals
from backend.models.control_layout import MAKE, ControlInputs, HintFormat
from backend.models.families import sd3
from backend.models.families.sequence import PATCH, padded
from backend.models.header import Header

# These networks were trained on hints that are scaled, and not shifted.
_HINTS = replace(sd3.LATENT, shift=0.0)


@dataclass(frozen=True, slots=True)
class Sd3Control:
    """network: the part of SD3 that it is; channels: of the hint."""

    network: sd3.Sd3
    channels: int

    @property
    def hint(self) -> HintFormat:
        return HintFormat(latent=_HINTS, masked=self.channels > sd3.LATENT.channels)

    def build(self) -> SD3ControlNetModel:
        own = self.network
        with torch.device("meta"):
            return SD3ControlNetModel(
                sample_size=own.side * PATCH,
                in_channels=own.in_channels,
                num_layers=own.depth,
                attention_head_dim=sd3.HEAD,
                num_attention_heads=own.width // sd3.HEAD,
                joint_attention_dim=own.context,
                caption_projection_dim=own.width,
                pooled_projection_dim=own.pooled,
                pos_embed_max_size=own.side,
                extra_conditioning_channels=self.channels - own.in_channels,
                dual_attention_layers=own.dual,
                qk_norm="rms_norm" if own.normed else None,
            )

    def convert(self, name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        yield name, weight

    def call(self, module: nn.Module, given: ControlInputs) -> Residuals:
        assert isinstance(module, SD3ControlNetModel)
        if given.tokens.shape[-1] != self.network.context or given.x.shape[1] != self.network.in_channels:
            value = f"a ControlNet of SD3, with tokens {given.tokens.shape[-1]} wide"
            raise UnsupportedOption("control_net", value, MAKE)
        height, width = given.x.shape[-2:]
        hidden = module.pos_embed.proj(padded(given.x)).flatten(2).transpose(1, 2)
        hidden = hidden + self.network.positions(module.pos_embed.pos_embed, height, width)
        hint = module.pos_embed_input.proj(padded(given.hint)).flatten(2).transpose(1, 2)
        hidden = (hidden + hint).contiguous()
        time = self.network.time(module.time_text_embed, given.timesteps, given.extra, given.x)
        text, made = module.context_embedder(given.tokens), list[Tensor]()
        for block, out in zip(module.transformer_blocks, module.controlnet_blocks, strict=True):
            hidden, text = sd3.run_block(block, time, hidden, text)
            made.append(out(hidden))
        return Residuals(blocks=tuple(made))


def detect(header: Header) -> Sd3Control | None:
    """A ControlNet over SD3's blocks with text; None for anything else."""
    needed = (
        "pos_embed_input.proj.weight",
        "pos_embed.proj.weight",
        "pos_embed.pos_embed",
        "context_embedder.weight",
        "time_text_embed.text_embedder.linear_1.weight",
        "transformer_blocks.0.attn.add_q_proj.weight",
    )
    if any(name not in header for name in needed):
        return None
    width, in_channels = header.shape("pos_embed.proj.weight")[:2]
    depth = header.count("transformer_blocks.{}.")
    network = sd3.Sd3(
        width,
        depth,
        isqrt(header.shape("pos_embed.pos_embed")[1]),
        header.shape("context_embedder.weight")[1],
        header.shape("time_text_embed.text_embedder.linear_1.weight")[1],
        in_channels,
        tuple(i for i in range(depth) if f"transformer_blocks.{i}.attn2.to_q.weight" in header),
        "transformer_blocks.0.attn.norm_q.weight" in header,
    )
    return Sd3Control(network, header.shape("pos_embed_input.proj.weight")[1])
