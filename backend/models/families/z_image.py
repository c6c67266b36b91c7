"""Z-Image and Z-Image-Turbo: a rectified flow over Flux's latents by one stream of picture and text.

Text is the hidden states of Qwen3. Source: arXiv:2511.22699. Names as in the original checkpoints and
ComfyUI's; the network is diffusers'.
"""

from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
from diffusers.models.transformers.transformer_z_image import FeedForward, ZImageTransformer2DModel
from torch import Tensor, nn

from backend.models.additions import NO_ADDITIONS, Additions
from backend.models.conditioning import NO_INPUTS, Given, Inputs
from backend.models.families import flux
from backend.models.families.renaming import Fused, Renaming, Target, lora_names
from backend.models.families.sequence import PATCH, angles, grid, padded, patches, phases
from backend.models.header import Header
from backend.models.latent import LatentFormat
from backend.models.layer_name import LayerName
from backend.sampling.discretization import shifted_flow
from backend.sampling.prediction import Prediction
from backend.values import frozen

LATENT = flux.LATENT
SHIFT = 3.0
THETA = 256.0
MULTIPLE = 32  # picture and text are each filled up to a multiple of so many tokens

_BLOCK: dict[str, Target] = {
    "attention.qkv": Fused(("attention.to_q", "attention.to_k", "attention.to_v")),
    "attention.out": "attention.to_out.0",
    "attention.q_norm": "attention.norm_q",
    "attention.k_norm": "attention.norm_k",
}
NAMES = Renaming(
    {name: (name, _BLOCK) for name in ("layers", "noise_refiner", "context_refiner")},
    {
        "x_embedder": f"all_x_embedder.{PATCH}-1",
        "final_layer.linear": f"all_final_layer.{PATCH}-1.linear",
        "final_layer.adaLN_modulation.1": f"all_final_layer.{PATCH}-1.adaLN_modulation.1",
    },
)
UNUSED = ("norm_final.weight",)  # some files have it, no layer does


@frozen
class ZImage:
    """depth: number of blocks, refiners: of those before picture and text meet; head: channels of one;
    hidden: width of the feed-forward layers.
    """

    latent: ClassVar[LatentFormat] = LATENT
    mixes_lengths: ClassVar[bool] = False
    width: int
    depth: int
    refiners: int
    head: int
    in_channels: int
    context: int
    hidden: int

    @property
    def prediction(self) -> Prediction:
        return Prediction("flow", shifted_flow(SHIFT, multiplier=1.0))

    def build(self) -> ZImageTransformer2DModel:
        with torch.device("meta"):
            network = ZImageTransformer2DModel(
                in_channels=self.in_channels,
                dim=self.width,
                n_layers=self.depth,
                n_refiner_layers=self.refiners,
                n_heads=self.width // self.head,
                n_kv_heads=self.width // self.head,
                cap_feat_dim=self.context,
                axes_dims=list(rope_axes(self.head)),
            )
            for blocks in (network.layers, network.noise_refiner, network.context_refiner):
                for block in blocks:
                    block.feed_forward = FeedForward(self.width, self.hidden)
        return network

    def convert(self, name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        if name not in UNUSED:
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
        assert isinstance(module, ZImageTransformer2DModel)
        height, width = x.shape[-2:]
        embed = module.t_embedder  # called as a whole it would round the time to the format of weights
        steps = (1.0 - timesteps) * module.t_scale
        time = embed.mlp(embed.timestep_embedding(steps, embed.frequency_embedding_size).to(x.dtype))
        length = _filled(tokens.shape[1])
        line = torch.zeros(length, 3, dtype=torch.float64)
        line[:, 0] = torch.arange(1, length + 1)
        text_turns = self._turns(line, x)
        text = _with_filling(module.cap_embedder(tokens), module.cap_pad_token)
        for block in module.context_refiner:
            text = block(text, None, text_turns)
        rows, columns = patches(height), patches(width)
        places = grid(rows, columns, index=length + 1)
        places = torch.cat([places, places.new_zeros(_filled(len(places)) - len(places), 3)])
        picture_turns = self._turns(places, x)
        hidden = module.all_x_embedder[f"{PATCH}-1"](_tokens(padded(x)))
        hidden = _with_filling(hidden, module.x_pad_token)
        for block in module.noise_refiner:
            hidden = block(hidden, None, picture_turns, time)
        together = torch.cat([hidden, text], dim=1)
        all_turns = torch.cat([picture_turns, text_turns], dim=1)
        for block in module.layers:
            together = block(together, None, all_turns, time)
        out = module.all_final_layer[f"{PATCH}-1"](together[:, : rows * columns], c=time)
        out = out.reshape(len(x), rows, columns, PATCH, PATCH, -1).permute(0, 5, 1, 3, 2, 4)
        whole: Tensor = out.reshape(len(x), -1, rows * PATCH, columns * PATCH)
        return -whole[..., :height, :width]  # the network says which way the latent is, not the noise

    def _turns(self, places: Tensor, x: Tensor) -> Tensor:
        """complex64 [R, S, head / 2]."""
        turned = phases(angles(places, rope_axes(self.head), THETA), x.device)
        return turned.expand(len(x), -1, -1)

    def activations(self, area: int) -> int:
        """Queries, keys, values and the feed-forward of a block, for the picture and 512 of text."""
        return 16 * self.width * (area // PATCH**2 + 512)

    def lora_names(self, site: str) -> tuple[LayerName, ...]:
        return lora_names(site, NAMES.origin(site))


def detect(header: Header) -> ZImage | None:
    """Z-Image: one stream of blocks with four modulations, and tokens that fill up picture and text."""
    needed = (
        "cap_pad_token",
        "x_pad_token",
        "x_embedder.weight",
        "cap_embedder.1.weight",
        "layers.0.adaLN_modulation.0.weight",
        "layers.0.attention.q_norm.weight",
        "layers.0.attention.qkv.weight",
        "layers.0.feed_forward.w1.weight",
    )
    if not header.has(*needed):
        return None
    width, shown = header.shape("x_embedder.weight")
    (head,) = header.shape("layers.0.attention.q_norm.weight")
    context = header.shape("cap_embedder.1.weight")[1]
    refiners = header.count("noise_refiner.{}.")
    hidden = header.shape("layers.0.feed_forward.w1.weight")[0]
    return ZImage(width, header.count("layers.{}."), refiners, head, shown // PATCH**2, context, hidden)


def rope_axes(head: int) -> tuple[int, int, int]:
    """Channels of a head for line, row and column: 32, 48 and 48 of 128."""
    side = head * 3 // 8
    return head - 2 * side, side, side


def _filled(length: int) -> int:
    return -(-length // MULTIPLE) * MULTIPLE


def _with_filling(x: Tensor, filling: Tensor) -> Tensor:
    """x [R, S, C] with `filling` [1, C] behind it, up to the next multiple."""
    missing = _filled(x.shape[1]) - x.shape[1]
    return torch.cat([x, filling.to(x.dtype).expand(len(x), missing, -1)], dim=1) if missing else x


def _tokens(x: Tensor) -> Tensor:
    """[R, C, H, W] -> [R, S, 4 * C]; a token is ordered by row, column, channel."""
    rows, channels, height, width = x.shape
    split = x.reshape(rows, channels, height // PATCH, PATCH, width // PATCH, PATCH)
    return split.permute(0, 2, 4, 3, 5, 1).reshape(rows, -1, channels * PATCH**2)
