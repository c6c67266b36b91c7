"""ControlNets of Qwen-Image (InstantX's): a few of its blocks, which see the hint beside the latent."""

import math
from collections.abc import Iterator

import torch
from diffusers.models.transformers.transformer_qwenimage import QwenImageTransformer2DModel
from torch import Tensor, nn

from backend.errors import UnsupportedOption
from backend.models.additions import Residuals
from backend.models.control_layout import MAKE, ControlInputs, HintFormat
from backend.models.families.qwen_image import QwenImage, run_block, shown_tokens
from backend.models.families.sequence import PATCH, padded, to_tokens
from backend.models.families.wan import LATENT
from backend.models.header import Header
from backend.values import frozen

_BLOCKS = 60  # of the model that the additions are for


@frozen
class QwenControl:
    """qwen: the blocks that it has; shown: channels of the hint's latents, with a mask's behind them."""

    qwen: QwenImage
    shown: int

    @property
    def hint(self) -> HintFormat:
        return HintFormat(pixels=1, latent=LATENT, masked=self.shown > LATENT.channels)

    def build(self) -> nn.Module:
        width = self.qwen.width
        network: nn.Module = self.qwen.build()
        del network.proj_out, network.norm_out
        with torch.device("meta"):
            network.controlnet_x_embedder = nn.Linear(self.shown * PATCH**2, width)
            network.controlnet_blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(self.qwen.depth))
        return network

    def convert(self, name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        yield name, weight

    def call(self, module: nn.Module, given: ControlInputs) -> Residuals:
        assert isinstance(module, QwenImageTransformer2DModel)
        if given.tokens.shape[-1] != self.qwen.context or given.x.ndim != 5:
            raise UnsupportedOption("control_net", "a ControlNet of Qwen-Image with another model", MAKE)
        x, hint = given.x[:, :, 0], given.hint[:, :, 0]
        shown, places = shown_tokens(x, {})
        rotary = self.qwen.rotary(places, x, given.tokens.shape[1])
        hidden = module.img_in(shown) + module.controlnet_x_embedder(to_tokens(padded(hint)))
        text = module.txt_in(module.txt_norm(given.tokens))
        embed = module.time_text_embed
        time = embed.timestep_embedder(embed.time_proj(given.timesteps).to(x.dtype))
        times, made = math.ceil(_BLOCKS / self.qwen.depth), list[Tensor]()
        for block, out in zip(module.transformer_blocks, module.controlnet_blocks, strict=True):
            hidden, text = run_block(block, time, rotary, hidden, text)
            made += [out(hidden)] * times
        return Residuals(blocks=tuple(made[:_BLOCKS]))


def detect(header: Header) -> QwenControl | None:
    """A ControlNet of Qwen-Image; None for anything else."""
    needed = (
        "controlnet_blocks.0.weight",
        "controlnet_x_embedder.weight",
        "txt_norm.weight",
        "txt_in.weight",
        "img_in.weight",
        "transformer_blocks.0.attn.norm_q.weight",
    )
    if not header.has(*needed):
        return None
    width, patched = header.shape("img_in.weight")
    (head,) = header.shape("transformer_blocks.0.attn.norm_q.weight")
    context, depth = header.shape("txt_in.weight")[1], header.count("transformer_blocks.{}.")
    qwen = QwenImage(width, depth, head, patched // PATCH**2, context)
    return QwenControl(qwen, header.shape("controlnet_x_embedder.weight")[1] // PATCH**2)
