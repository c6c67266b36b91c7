"""ControlNets of SD 3 (InstantX's, AliMama's): some of its blocks, which see the hint beside the latent.

The pooled text says nothing to them, and their hints are not shifted. Names as diffusers has them.
"""

from collections.abc import Iterator
from dataclasses import replace
from math import isqrt

import torch
from diffusers.models.controlnets.controlnet_sd3 import SD3ControlNetModel
from torch import Tensor, nn

from backend.errors import UnsupportedOption
from backend.models.additions import Residuals
from backend.models.control_layout import MAKE, ControlInputs, HintFormat
from backend.models.families.sd3 import HEAD, LATENT, Sd3
from backend.models.families.sequence import PATCH, padded
from backend.models.header import Header
from backend.values import frozen


@frozen
class Sd3Control:
    """sd3: the blocks that it has; shown: channels of the hint's latents, with a mask's behind them."""

    sd3: Sd3
    shown: int

    @property
    def hint(self) -> HintFormat:
        return HintFormat(pixels=1, latent=replace(LATENT, shift=0.0), masked=self.shown > LATENT.channels)

    def build(self) -> nn.Module:
        sd3 = self.sd3
        with torch.device("meta"):
            network: nn.Module = SD3ControlNetModel(
                sample_size=sd3.side * PATCH,
                in_channels=sd3.in_channels,
                num_layers=sd3.depth,
                attention_head_dim=HEAD,
                num_attention_heads=sd3.width // HEAD,
                joint_attention_dim=sd3.context,
                caption_projection_dim=sd3.width,
                pooled_projection_dim=sd3.pooled,
                pos_embed_max_size=sd3.side,
                extra_conditioning_channels=self.shown - sd3.in_channels,
                dual_attention_layers=sd3.dual,
                qk_norm="rms_norm" if sd3.normed else None,
            )
        return network

    def convert(self, name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        yield name, weight

    def call(self, module: nn.Module, given: ControlInputs) -> Residuals:
        assert isinstance(module, SD3ControlNetModel)
        if given.tokens.shape[-1] != self.sd3.context or given.x.ndim != 4:
            raise UnsupportedOption("control_net", "a ControlNet of SD 3 with another model", MAKE)
        x = padded(given.x)
        hidden = module.pos_embed.proj(x).flatten(2).transpose(1, 2)
        hidden = hidden + self.sd3.positions(module.pos_embed.pos_embed, *given.x.shape[-2:])
        hidden = hidden + module.pos_embed_input.proj(padded(given.hint)).flatten(2).transpose(1, 2)
        embed = module.time_text_embed
        time = embed.timestep_embedder(embed.time_proj(given.timesteps).to(x.dtype))
        time = time + embed.text_embedder(x.new_zeros(len(x), self.sd3.pooled))
        text, made = module.context_embedder(given.tokens), list[Tensor]()
        times = max(1, self.sd3.width // HEAD // self.sd3.depth)
        for block, out in zip(module.transformer_blocks, module.controlnet_blocks, strict=True):
            text, hidden = block(hidden_states=hidden, encoder_hidden_states=text, temb=time)
            made += [out(hidden)] * times
        return Residuals(blocks=tuple(made[:-1]))


def detect(header: Header) -> Sd3Control | None:
    """A ControlNet of SD 3 in diffusers' names; None for anything else."""
    needed = (
        "controlnet_blocks.0.weight",
        "pos_embed_input.proj.weight",
        "pos_embed.proj.weight",
        "pos_embed.pos_embed",
        "context_embedder.weight",
        "transformer_blocks.0.norm1_context.linear.weight",
    )
    if not header.has(*needed):
        return None
    width, in_channels = header.shape("pos_embed.proj.weight")[:2]
    depth = header.count("transformer_blocks.{}.")
    trunk = Sd3(
        width=width,
        depth=depth,
        side=isqrt(header.shape("pos_embed.pos_embed")[1]),
        context=header.shape("context_embedder.weight")[1],
        pooled=header.shape("time_text_embed.text_embedder.linear_1.weight")[1],
        in_channels=in_channels,
        dual=tuple(i for i in range(depth) if f"transformer_blocks.{i}.attn2.to_q.weight" in header),
        normed="transformer_blocks.0.attn.norm_q.weight" in header,
    )
    return Sd3Control(trunk, header.shape("pos_embed_input.proj.weight")[1])
