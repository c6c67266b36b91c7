"""Stable Diffusion 3 and 3.5: a rectified flow over 16 latent channels by a transformer of joint blocks.

Text is CLIP-L's and bigG's tokens beside each other, then T5's, and the pooled vectors of both CLIPs.
Source: arXiv:2403.03206. Names as in the original checkpoints; the network is diffusers'.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from math import isqrt
from typing import ClassVar

import torch
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from torch import Tensor, nn

from backend.errors import UnsupportedOption
from backend.models.additions import NO_ADDITIONS, Additions
from backend.models.conditioning import NO_INPUTS, Given, Inputs
from backend.models.families.blocks import added_of, controlled, passed
from backend.models.families.renaming import Fused, Renaming, Swapped, Target, lora_names
from backend.models.families.sequence import PATCH, from_tokens, padded, patches
from backend.models.header import Header
from backend.models.latent import LatentFormat
from backend.models.layer_name import LayerName
from backend.sampling.discretization import shifted_flow
from backend.sampling.prediction import Prediction
from backend.values import frozen

LATENT = LatentFormat(
    tiny="taesd3",
    channels=16,
    downscale=8,
    scale=1.5305,
    shift=0.0609,
    rgb=(
        (-0.0922, -0.0175, 0.0749),
        (0.0311, 0.0633, 0.0954),
        (0.1994, 0.0927, 0.0458),
        (0.0856, 0.0339, 0.0902),
        (0.0587, 0.0272, -0.0496),
        (-0.0006, 0.1104, 0.0309),
        (0.0978, 0.0306, 0.0427),
        (-0.0042, 0.1038, 0.1358),
        (-0.0194, 0.0020, 0.0669),
        (-0.0488, 0.0130, -0.0268),
        (0.0922, 0.0988, 0.0951),
        (-0.0278, 0.0524, -0.0542),
        (0.0332, 0.0456, 0.0895),
        (-0.0069, -0.0030, -0.0810),
        (-0.0596, -0.0465, -0.0293),
        (-0.1448, -0.1463, -0.1189),
    ),
    rgb_bias=(0.2394, 0.2135, 0.1925),
)
SHIFT = 3.0
HEAD = 64  # channels of one attention head, at every width

_BLOCK: dict[str, Target] = {
    "x_block.adaLN_modulation.1": "norm1.linear",
    "context_block.adaLN_modulation.1": "norm1_context.linear",
    "x_block.attn.qkv": Fused(("attn.to_q", "attn.to_k", "attn.to_v")),
    "x_block.attn.ln_q": "attn.norm_q",
    "x_block.attn.ln_k": "attn.norm_k",
    "x_block.attn.proj": "attn.to_out.0",
    "context_block.attn.qkv": Fused(("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")),
    "context_block.attn.ln_q": "attn.norm_added_q",
    "context_block.attn.ln_k": "attn.norm_added_k",
    "context_block.attn.proj": "attn.to_add_out",
    "x_block.attn2.qkv": Fused(("attn2.to_q", "attn2.to_k", "attn2.to_v")),
    "x_block.attn2.ln_q": "attn2.norm_q",
    "x_block.attn2.ln_k": "attn2.norm_k",
    "x_block.attn2.proj": "attn2.to_out.0",
    "x_block.mlp.fc1": "ff.net.0.proj",
    "x_block.mlp.fc2": "ff.net.2",
    "context_block.mlp.fc1": "ff_context.net.0.proj",
    "context_block.mlp.fc2": "ff_context.net.2",
}
_LAYERS: dict[str, Target] = {
    "pos_embed": "pos_embed.pos_embed",
    "x_embedder.proj": "pos_embed.proj",
    "context_embedder": "context_embedder",
    "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
    "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": Swapped("norm_out.linear"),
}


@frozen
class Sd3:
    """depth: number of blocks; side: of the square of known positions, in patches; dual: blocks with a second
    attention over the picture alone; normed: queries and keys are normalised (3.5).
    """

    latent: ClassVar[LatentFormat] = LATENT
    mixes_lengths: ClassVar[bool] = False
    width: int
    depth: int
    side: int
    context: int
    pooled: int
    in_channels: int
    dual: tuple[int, ...] = ()
    normed: bool = False

    @property
    def prediction(self) -> Prediction:
        return Prediction("flow", shifted_flow(SHIFT))

    def build(self) -> SD3Transformer2DModel:
        with torch.device("meta"):
            return SD3Transformer2DModel(
                sample_size=self.side * PATCH,
                in_channels=self.in_channels,
                num_layers=self.depth,
                attention_head_dim=HEAD,
                num_attention_heads=self.width // HEAD,
                joint_attention_dim=self.context,
                caption_projection_dim=self.width,
                pooled_projection_dim=self.pooled,
                out_channels=LATENT.channels,
                pos_embed_max_size=self.side,
                dual_attention_layers=self.dual,
                qk_norm="rms_norm" if self.normed else None,
            )

    def convert(self, name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        yield from self._names().convert(name, weight)

    def _names(self) -> Renaming:
        last = f"joint_blocks.{self.depth - 1}.context_block.adaLN_modulation.1"
        turned = Swapped(f"transformer_blocks.{self.depth - 1}.norm1_context.linear")
        return Renaming({"joint_blocks": ("transformer_blocks", _BLOCK)}, {**_LAYERS, last: turned})

    def conditioning(self, given: Given) -> Inputs:
        """`pooled`."""
        return NO_INPUTS if given.cond.pooled is None else Inputs({"pooled": given.cond.pooled})

    def call(
        self,
        module: nn.Module,
        x: Tensor,
        timesteps: Tensor,
        tokens: Tensor,
        extra: Mapping[str, Tensor],
        additions: Additions = NO_ADDITIONS,
    ) -> Tensor:
        """extra: `pooled` [R, pooled]. Raises: UnsupportedOption where the latent is larger than is known."""
        assert isinstance(module, SD3Transformer2DModel)
        height, width = x.shape[-2:]
        hidden = module.pos_embed.proj(padded(x)).flatten(2).transpose(1, 2)
        hidden = (hidden + self.positions(module.pos_embed.pos_embed, height, width)).contiguous()
        time = self.time(module.time_text_embed, timesteps, extra, x)
        text = module.context_embedder(tokens)
        added, _ = added_of(additions)
        for number, block in enumerate(module.transformer_blocks):
            run = partial(run_block, block, time)
            hidden, text = passed(additions, "double", number, run, (hidden, text))
            hidden = controlled(hidden, added, number)
        out: Tensor = module.proj_out(module.norm_out(hidden, time))
        return from_tokens(out, height, width, channels_last=True)

    def time(self, embed: nn.Module, timesteps: Tensor, extra: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """What the blocks are told beside text and picture: [R, width]. embed: the network's own
        embeddings.
        """
        pooled = extra["pooled"] if "pooled" in extra else x.new_zeros(len(x), self.pooled)
        time = embed.timestep_embedder(embed.time_proj(timesteps).to(x.dtype))  # type: ignore[operator]
        told: Tensor = time + embed.text_embedder(pooled)  # type: ignore[operator]
        return told

    def positions(self, known: Tensor, height: int, width: int) -> Tensor:
        """The middle of the square of known positions, for a latent of this size: [1, S, width]."""
        rows, columns = patches(height), patches(width)
        if max(rows, columns) > self.side:
            most = self.side * PATCH * LATENT.downscale
            size = f"{width * LATENT.downscale} x {height * LATENT.downscale} pixels"
            raise UnsupportedOption("latent_image", size, f"This model makes at most {most} pixels a side.")
        top, left = (self.side - rows) // 2, (self.side - columns) // 2
        square = known.reshape(1, self.side, self.side, -1)
        part: Tensor = square[:, top : top + rows, left : left + columns].flatten(1, 2)
        return part

    def activations(self, area: int) -> int:
        """As Flux's blocks: queries, keys, values and the feed-forward, for the picture and 333 of text."""
        return 24 * self.width * (area // PATCH**2 + 333)

    def lora_names(self, site: str) -> tuple[LayerName, ...]:
        return lora_names(site, self._names().origin(site))


def run_block(block: nn.Module, time: Tensor, hidden: Tensor, text: Tensor) -> tuple[Tensor, ...]:
    """The last block has no text to hand on: it stays."""
    told, hidden = block(hidden_states=hidden, encoder_hidden_states=text, temb=time)
    return hidden, text if told is None else told


def detect(header: Header) -> Sd3 | None:
    """SD 3.x: blocks with a part for the picture and one for the text, and learnt positions."""
    needed = (
        "joint_blocks.0.context_block.attn.qkv.weight",
        "x_embedder.proj.weight",
        "y_embedder.mlp.0.weight",
        "context_embedder.weight",
        "pos_embed",
        "final_layer.linear.weight",
    )
    if not header.has(*needed):
        return None
    width, in_channels = header.shape("x_embedder.proj.weight")[:2]
    depth = header.count("joint_blocks.{}.")
    dual = tuple(i for i in range(depth) if f"joint_blocks.{i}.x_block.attn2.qkv.weight" in header)
    return Sd3(
        width,
        depth,
        isqrt(header.shape("pos_embed")[1]),
        header.shape("context_embedder.weight")[1],
        header.shape("y_embedder.mlp.0.weight")[1],
        in_channels,
        dual,
        "joint_blocks.0.context_block.attn.ln_q.weight" in header,
    )
