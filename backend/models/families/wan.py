"""Wan 2.1, text to video: a rectified flow over frames of latents, with cross-attention to UMT5's tokens.

Source: arXiv:2503.20314. Names as in the original checkpoints; the network is diffusers'.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import ClassVar

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import Tensor, nn

from backend.models.additions import NO_ADDITIONS, Additions
from backend.models.conditioning import NO_INPUTS, Given, Inputs
from backend.models.families.blocks import passed
from backend.models.families.renaming import Renaming, Target, lora_names
from backend.models.families.sequence import PATCH, angles, grid, padded, patches, turns
from backend.models.header import Header
from backend.models.latent import LatentFormat
from backend.models.layer_name import LayerName
from backend.sampling.discretization import shifted_flow
from backend.sampling.prediction import Prediction
from backend.values import frozen

_MEANS = (
    *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
    *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
)
_DEVIATIONS = (
    *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
    *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
)
LATENT = LatentFormat(
    channels=16,
    downscale=8,
    scale=tuple(1.0 / deviation for deviation in _DEVIATIONS),
    shift=_MEANS,
    dimensions=3,
    rgb=(
        (-0.1299, -0.1692, 0.2932),
        (0.0671, 0.0406, 0.0442),
        (0.3568, 0.2548, 0.1747),
        (0.0372, 0.2344, 0.1420),
        (0.0313, 0.0189, -0.0328),
        (0.0296, -0.0956, -0.0665),
        (-0.3477, -0.4059, -0.2925),
        (0.0166, 0.1902, 0.1975),
        (-0.0412, 0.0267, -0.1364),
        (-0.1293, 0.0740, 0.1636),
        (0.0680, 0.3019, 0.1128),
        (0.0032, 0.0581, 0.0639),
        (-0.1251, 0.0927, 0.1699),
        (0.0060, -0.0633, 0.0005),
        (0.3477, 0.2275, 0.2950),
        (0.1984, 0.0913, 0.1861),
    ),
    rgb_bias=(-0.1835, -0.0868, -0.3360),
)
SHIFT = 8.0
HEAD = 128  # channels of one attention head
THETA = 10000.0

_BLOCK: dict[str, Target] = {
    **{f"self_attn.{x}": f"attn1.to_{x}" for x in "qkv"},
    **{f"cross_attn.{x}": f"attn2.to_{x}" for x in "qkv"},
    **{f"self_attn.norm_{x}": f"attn1.norm_{x}" for x in "qk"},
    **{f"cross_attn.norm_{x}": f"attn2.norm_{x}" for x in "qk"},
    "self_attn.o": "attn1.to_out.0",
    "cross_attn.o": "attn2.to_out.0",
    "norm3": "norm2",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
    "modulation": "scale_shift_table",
}
NAMES = Renaming(
    {"blocks": ("blocks", _BLOCK)},
    {
        "patch_embedding": "patch_embedding",
        "text_embedding.0": "condition_embedder.text_embedder.linear_1",
        "text_embedding.2": "condition_embedder.text_embedder.linear_2",
        "time_embedding.0": "condition_embedder.time_embedder.linear_1",
        "time_embedding.2": "condition_embedder.time_embedder.linear_2",
        "time_projection.1": "condition_embedder.time_proj",
        "head.head": "proj_out",
        "head.modulation": "scale_shift_table",
    },
)


@frozen
class Wan:
    """depth: number of blocks; hidden: width of the feed-forward layers; frequencies: of the time."""

    latent: ClassVar[LatentFormat] = LATENT
    mixes_lengths: ClassVar[bool] = False
    width: int
    depth: int
    hidden: int
    frequencies: int
    in_channels: int
    context: int

    @property
    def prediction(self) -> Prediction:
        return Prediction("flow", shifted_flow(SHIFT))

    def build(self) -> WanTransformer3DModel:
        with torch.device("meta"):
            network = WanTransformer3DModel(
                patch_size=(1, PATCH, PATCH),
                num_attention_heads=self.width // HEAD,
                attention_head_dim=HEAD,
                in_channels=self.in_channels,
                out_channels=LATENT.channels,
                text_dim=self.context,
                freq_dim=self.frequencies,
                ffn_dim=self.hidden,
                num_layers=self.depth,
            )
        del network.rope  # its tables would stay without numbers: places are worked out in `call`
        return network

    def convert(self, name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        yield from NAMES.convert(name, weight)

    def conditioning(self, given: Given) -> Inputs:
        return NO_INPUTS

    def call(
        self,
        module: nn.Module,
        x: Tensor,
        timesteps: Tensor,
        tokens: Tensor,
        extra: Mapping[str, Tensor],
        additions: Additions = NO_ADDITIONS,
    ) -> Tensor:
        """x [R, 16, T, H, W]."""
        assert isinstance(module, WanTransformer3DModel)
        frames, height, width = x.shape[2:]
        rows, columns = patches(height), patches(width)
        places = torch.cat([grid(rows, columns, index=frame) for frame in range(frames)])
        rotary = tuple(turn[None, :, None] for turn in turns(angles(places, _axes(), THETA), x.device))
        hidden = module.patch_embedding(padded(x)).flatten(2).transpose(1, 2).contiguous()
        time, modulation, text = told(module.condition_embedder, timesteps, tokens)
        for number, block in enumerate(module.blocks):
            run = partial(run_block, block, text, modulation, rotary)
            (hidden,) = passed(additions, "double", number, run, (hidden,))
        shift, scale = (module.scale_shift_table + time.unsqueeze(1)).chunk(2, dim=1)
        hidden = (module.norm_out(hidden.float()) * (1 + scale) + shift).type_as(hidden)
        out = module.proj_out(hidden).reshape(len(x), frames, rows, columns, PATCH, PATCH, -1)
        out = out.permute(0, 6, 1, 2, 4, 3, 5)
        whole: Tensor = out.reshape(len(x), -1, frames, rows * PATCH, columns * PATCH)
        return whole[..., :height, :width]

    def activations(self, area: int) -> int:
        """Queries, keys, values and the feed-forward of a block. area: of all frames."""
        return (8 * self.width + 2 * self.hidden) * (area // PATCH**2 + 512)

    def lora_names(self, site: str) -> tuple[LayerName, ...]:
        return lora_names(site, NAMES.origin(site))


def told(embed: nn.Module, timesteps: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What blocks are told: time [R, width], its part in each block [R, 6, width], text [R, T, width].

    embed: the network's own embeddings; called as a whole they would round the time to the format of weights.
    """
    signal = embed.timesteps_proj(timesteps).to(tokens.dtype)  # type: ignore[operator]
    time: Tensor = embed.time_embedder(signal)  # type: ignore[operator]
    modulation: Tensor = embed.time_proj(embed.act_fn(time))  # type: ignore[operator]
    return time, modulation.reshape(len(time), 6, -1), embed.text_embedder(tokens)  # type: ignore[operator]


def run_block(
    block: nn.Module, text: Tensor, modulation: Tensor, rotary: tuple[Tensor, ...], hidden: Tensor
) -> tuple[Tensor, ...]:
    return (block(hidden, text, modulation, rotary),)


def detect(header: Header) -> Wan | None:
    """Wan 2.1's text to video: cross-attention to text alone, and no picture beside the latent."""
    needed = (
        "head.modulation",
        "patch_embedding.weight",
        "text_embedding.0.weight",
        "blocks.0.cross_attn.norm_k.weight",
        "blocks.0.ffn.0.weight",
    )
    others = ("img_emb.proj.0.bias", "vace_patch_embedding.weight", "control_adapter.conv.weight")
    if not header.has(*needed) or any(name in header for name in others):
        return None
    width, in_channels = header.shape("patch_embedding.weight")[:2]
    if in_channels != LATENT.channels:
        return None
    return Wan(
        width,
        header.count("blocks.{}."),
        header.shape("blocks.0.ffn.0.weight")[0],
        header.shape("time_embedding.0.weight")[1],
        in_channels,
        header.shape("text_embedding.0.weight")[1],
    )


def _axes() -> tuple[int, int, int]:
    """Channels of a head for frame, row and column."""
    side = 2 * (HEAD // 6)
    return HEAD - 2 * side, side, side
