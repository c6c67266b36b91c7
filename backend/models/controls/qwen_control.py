"""ControlNets of Qwen-Image, in diffusers' names (InstantX's union and inpainting).

The hint is encoded by Qwen-Image's autoencoder. Source: diffusers' QwenImageControlNetModel.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from diffusers.models.controlnets.controlnet_qwenimage import QwenImageControlNetModel
from torch import Tensor, nn

from backend.errors import UnsupportedOption
from backend.models.additions import Residuals
from backend.models.control_layout import MAKE, ControlInputs, HintFormat
from backend.models.families import qwen_image, wan
from backend.models.families.flux import rope_axes
from backend.models.families.sequence import PATCH, padded, to_tokens
from backend.models.header import Header


@dataclass(frozen=True, slots=True)
class QwenControl:
    """network: the part of Qwen-Image that it is; channels: of a token of the hint."""

    network: qwen_image.QwenImage
    channels: int

    @property
    def hint(self) -> HintFormat:
        plain = self.network.in_channels * PATCH**2
        return HintFormat(latent=wan.LATENT, masked=self.channels > plain)

    def build(self) -> QwenImageControlNetModel:
        own = self.network
        plain = own.in_channels * PATCH**2
        with torch.device("meta"):
            network = QwenImageControlNetModel(
                patch_size=PATCH,
                in_channels=plain,
                out_channels=own.in_channels,
                num_layers=own.depth,
                attention_head_dim=own.head,
                num_attention_heads=own.width // own.head,
                joint_attention_dim=own.context,
                axes_dims_rope=rope_axes(own.head),
                extra_condition_channels=self.channels - plain,
            )
        del network.pos_embed  # its tables would stay without numbers
        return network

    def convert(self, name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        yield name, weight

    def call(self, module: nn.Module, given: ControlInputs) -> Residuals:
        assert isinstance(module, QwenImageControlNetModel)
        if given.tokens.shape[-1] != self.network.context or given.x.ndim != 5:
            value = f"a ControlNet of Qwen-Image, with tokens {given.tokens.shape[-1]} wide"
            raise UnsupportedOption("control_net", value, MAKE)
        shown, places = qwen_image.shown_tokens(given.x[:, :, 0], {})
        rotary = self.network.rotary(places, given.x, given.tokens.shape[1])
        hidden = module.img_in(shown) + module.controlnet_x_embedder(to_tokens(padded(given.hint[:, :, 0])))
        text = module.txt_in(module.txt_norm(given.tokens))
        embed = module.time_text_embed
        time = embed.timestep_embedder(embed.time_proj(given.timesteps).to(hidden.dtype))
        made = list[Tensor]()
        for block, out in zip(module.transformer_blocks, module.controlnet_blocks, strict=True):
            hidden, text = qwen_image.run_block(block, time, rotary, hidden, text)
            made.append(out(hidden))
        return Residuals(blocks=tuple(made))


def detect(header: Header) -> QwenControl | None:
    """A ControlNet over Qwen-Image's blocks; None for anything else."""
    if "controlnet_x_embedder.weight" not in header or "controlnet_blocks.0.weight" not in header:
        return None
    # as the model itself, but for the way out
    found = qwen_image.detect_blocks(header)
    return None if found is None else QwenControl(found, header.shape("controlnet_x_embedder.weight")[1])
