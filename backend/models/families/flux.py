"""Flux.1 (dev, schnell, Fill, Kontext and its kin): a rectified flow over 16 latent channels by a
transformer.

Text is T5's tokens and CLIP-L's pooled vector. Everything but the size of a head is read from the file.
Names as in the original checkpoints; the network is diffusers'.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import ClassVar

import torch
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from torch import Tensor, nn

from backend.models.additions import NO_ADDITIONS, Additions
from backend.models.conditioning import Given, Inputs, at_size, spread_rows
from backend.models.families import attention_bias, inpainting, references
from backend.models.families.attention_bias import ATTENTION, bias_inputs, bias_of
from backend.models.families.blocks import added_of, controlled, passed, preceded
from backend.models.families.renaming import Fused, Renaming, Swapped, Target, lora_names
from backend.models.families.sequence import (
    PATCH,
    angles,
    from_tokens,
    grid,
    padded,
    patches,
    reference_pictures,
    reference_places,
    rounded,
    to_tokens,
    turns,
)
from backend.models.header import Header
from backend.models.latent import LatentFormat
from backend.models.layer_name import LayerName
from backend.resize import resize
from backend.sampling.discretization import exponential_flow, shifted_flow
from backend.sampling.prediction import Prediction
from backend.values import frozen

LATENT = LatentFormat(
    tiny="taef1",
    channels=16,
    downscale=8,
    scale=0.3611,
    shift=0.1159,
    rgb=(
        (-0.0346, 0.0244, 0.0681),
        (0.0034, 0.0210, 0.0687),
        (0.0275, -0.0668, -0.0433),
        (-0.0174, 0.0160, 0.0617),
        (0.0859, 0.0721, 0.0329),
        (0.0004, 0.0383, 0.0115),
        (0.0405, 0.0861, 0.0915),
        (-0.0236, -0.0185, -0.0259),
        (-0.0245, 0.0250, 0.1180),
        (0.1008, 0.0755, -0.0421),
        (-0.0515, 0.0201, 0.0011),
        (0.0428, -0.0012, -0.0036),
        (0.0817, 0.0765, 0.0749),
        (-0.1264, -0.0522, -0.1103),
        (-0.0280, -0.0881, -0.0499),
        (-0.1262, -0.0982, -0.0778),
    ),
    rgb_bias=(-0.0329, -0.0718, -0.0851),
)
SHIFT = 1.15  # of dev and its kin; schnell has none
GUIDANCE = 3.5  # where the condition says nothing
OPTIONS = inpainting.OPTIONS | references.OPTIONS | attention_bias.OPTIONS | {"guidance"}
THETA = 10000.0
TIME = 1000.0  # times and guidance are embedded in thousandths

_DOUBLE: dict[str, Target] = {
    "img_mod.lin": "norm1.linear",
    "txt_mod.lin": "norm1_context.linear",
    "img_attn.qkv": Fused(("attn.to_q", "attn.to_k", "attn.to_v")),
    "txt_attn.qkv": Fused(("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")),
    "img_attn.norm.query_norm": "attn.norm_q",
    "img_attn.norm.key_norm": "attn.norm_k",
    "txt_attn.norm.query_norm": "attn.norm_added_q",
    "txt_attn.norm.key_norm": "attn.norm_added_k",
    "img_attn.proj": "attn.to_out.0",
    "txt_attn.proj": "attn.to_add_out",
    "img_mlp.0": "ff.net.0.proj",
    "img_mlp.2": "ff.net.2",
    "txt_mlp.0": "ff_context.net.0.proj",
    "txt_mlp.2": "ff_context.net.2",
}
_SINGLE: dict[str, Target] = {
    "modulation.lin": "norm.linear",
    "linear1": Fused(("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"), (1, 1, 1, 4)),
    "linear2": "proj_out",
    "norm.query_norm": "attn.norm_q",
    "norm.key_norm": "attn.norm_k",
}
NAMES = Renaming(
    {
        "double_blocks": ("transformer_blocks", _DOUBLE),
        "single_blocks": ("single_transformer_blocks", _SINGLE),
    },
    {
        "img_in": "x_embedder",
        "txt_in": "context_embedder",
        "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
        "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
        "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
        "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
        "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
        "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
        "final_layer.linear": "proj_out",
        "final_layer.adaLN_modulation.1": Swapped("norm_out.linear"),
    },
)


def rope_axes(head: int) -> tuple[int, int, int]:
    """Channels of a head for picture, row and column: 16, 56 and 56 of 128."""
    side = head * 7 // 16
    return head - 2 * side, side, side


@frozen
class Flux:
    """double, single: numbers of blocks; head: channels of one; in_channels: of the latent and what is shown
    beside it; pooled: width of the pooled text; guided: takes its guidance as an input.
    """

    latent: ClassVar[LatentFormat] = LATENT
    mixes_lengths: ClassVar[bool] = False
    width: int
    double: int
    single: int
    head: int
    in_channels: int
    context: int
    pooled: int
    guided: bool

    @property
    def prediction(self) -> Prediction:
        return Prediction(
            "flow", exponential_flow(SHIFT) if self.guided else shifted_flow(1.0, multiplier=1.0)
        )

    def build(self) -> FluxTransformer2DModel:
        with torch.device("meta"):
            return FluxTransformer2DModel(
                in_channels=self.in_channels * PATCH**2,
                out_channels=LATENT.channels * PATCH**2,
                num_layers=self.double,
                num_single_layers=self.single,
                attention_head_dim=self.head,
                num_attention_heads=self.width // self.head,
                joint_attention_dim=self.context,
                pooled_projection_dim=self.pooled,
                guidance_embeds=self.guided,
                axes_dims_rope=rope_axes(self.head),
            )

    def convert(self, name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        yield from NAMES.convert(name, weight)

    def conditioning(self, given: Given) -> Inputs:
        """`pooled`, `guidance`, `attention` and reference pictures; for models that are shown a picture,
        `concat`.
        """
        plain = references.reference_inputs(given, LATENT, "offset") | bias_inputs(given)
        if given.cond.pooled is not None:
            plain["pooled"] = given.cond.pooled
        if self.guided and given.cond.options.get("guidance", GUIDANCE) is not None:
            plain["guidance"] = torch.tensor([given.number("guidance", GUIDANCE)])
        if self.in_channels == LATENT.channels:
            return Inputs(plain)
        return Inputs(plain, {"concat": _beside(given, self.in_channels)})

    def call(
        self,
        module: nn.Module,
        x: Tensor,
        timesteps: Tensor,
        tokens: Tensor,
        extra: Mapping[str, Tensor],
        additions: Additions = NO_ADDITIONS,
    ) -> Tensor:
        """extra: `pooled` [R, pooled], `guidance` [R] (none: without), `concat` [R, in_channels - 16, H,
        W], `attention` (`attention_bias.py`), and reference pictures (`references.py`), [R, 16, h, w].
        """
        assert isinstance(module, FluxTransformer2DModel)
        height, width = x.shape[-2:]
        shown, places = self._shown(x, extra)
        count = patches(height) * patches(width)
        text = preceded(module.context_embedder(tokens), additions)
        places = torch.cat([torch.zeros(text.shape[1], 3, dtype=torch.float64), places])
        rotary = turns(angles(places, rope_axes(self.head), THETA), x.device)
        time = time_of(module.time_text_embed, self, timesteps, extra, x)
        hidden = module.x_embedder(shown)
        bias = bias_of(extra.get(ATTENTION), text.shape[1] + hidden.shape[1])
        doubles, singles = added_of(additions)
        for number, block in enumerate(module.transformer_blocks):
            run = partial(run_block, block, time, rotary, bias=bias)
            hidden, text = passed(additions, "double", number, run, (hidden, text))
            hidden = controlled(hidden, doubles, number)
        for number, block in enumerate(module.single_transformer_blocks):
            run = partial(run_block, block, time, rotary, bias=bias)
            hidden, text = passed(additions, "single", number, run, (hidden, text))
            hidden = controlled(hidden, singles, number)
        out: Tensor = module.proj_out(module.norm_out(hidden[:, :count], time))
        return from_tokens(out, height, width)

    def _shown(self, x: Tensor, extra: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """All tokens of pictures [R, S, C * 4], and their places [S, 3]."""
        size = (x.shape[-2], x.shape[-1])
        if self.in_channels > LATENT.channels:
            x = torch.cat([x, extra["concat"]], dim=1)
        shown, places = [to_tokens(padded(x))], [grid(patches(size[0]), patches(size[1]))]
        method, pictures = reference_pictures(extra)
        sizes = [(p.shape[-2], p.shape[-1]) for p in pictures]
        for picture, (index, top, left) in zip(pictures, reference_places(method, sizes, size), strict=True):
            rows, columns = patches(picture.shape[-2]), patches(picture.shape[-1])
            shown.append(to_tokens(padded(picture)))
            places.append(grid(rows, columns, index=index, top=rounded(top), left=rounded(left)))
        return torch.cat(shown, dim=1), torch.cat(places)

    def activations(self, area: int) -> int:
        """The widest: queries, keys, values and the feed-forward of a block, for the picture and 512 of
        text.
        """
        return 24 * self.width * (area // PATCH**2 + 512)

    def lora_names(self, site: str) -> tuple[LayerName, ...]:
        return lora_names(site, NAMES.origin(site))


def time_of(
    embed: nn.Module, layout: Flux, timesteps: Tensor, extra: Mapping[str, Tensor], x: Tensor
) -> Tensor:
    """What the blocks are told beside text and picture: [R, width]. embed: the network's own embeddings."""
    time = embed.timestep_embedder(embed.time_proj(timesteps * TIME).to(x.dtype))  # type: ignore[operator]
    if layout.guided and "guidance" in extra:
        guidance = embed.time_proj(extra["guidance"].float() * TIME)  # type: ignore[operator]
        time = time + embed.guidance_embedder(guidance.to(x.dtype))  # type: ignore[operator]
    pooled = extra["pooled"] if "pooled" in extra else x.new_zeros(len(x), layout.pooled)
    told: Tensor = time + embed.text_embedder(pooled[:, : layout.pooled])  # type: ignore[operator]
    return told


def run_block(
    block: nn.Module,
    time: Tensor,
    rotary: tuple[Tensor, Tensor],
    hidden: Tensor,
    text: Tensor,
    bias: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """bias [R, 1, S, S]: of the attention's logits."""
    text, hidden = block(
        hidden_states=hidden,
        encoder_hidden_states=text,
        temb=time,
        image_rotary_emb=rotary,
        joint_attention_kwargs={"attention_mask": bias},
    )
    return hidden, text


def detect(header: Header) -> Flux | None:
    """Flux.1: blocks of two streams and of one, a pooled text, and modulations of each block's own."""
    needed = (
        "double_blocks.0.img_attn.norm.key_norm.scale",
        "double_blocks.0.img_mod.lin.weight",
        "single_blocks.0.linear1.weight",
        "vector_in.in_layer.weight",
        "img_in.weight",
        "txt_in.weight",
    )
    if not header.has(*needed) or "distilled_guidance_layer.0.norms.0.scale" in header:
        return None
    width, shown = header.shape("img_in.weight")
    (head,) = header.shape("double_blocks.0.img_attn.norm.key_norm.scale")
    if header.shape("final_layer.linear.weight")[0] != LATENT.channels * PATCH**2:
        return None
    return Flux(
        width,
        header.count("double_blocks.{}."),
        header.count("single_blocks.{}."),
        head,
        shown // PATCH**2,
        header.shape("txt_in.weight")[1],
        header.shape("vector_in.in_layer.weight")[1],
        "guidance_in.in_layer.weight" in header,
    )


def _beside(given: Given, channels: int) -> Tensor:
    """The picture that Fill, Canny and Depth are shown, and Fill's mask of 8 x 8 pixels: [B, channels -
    16, h, w].
    """
    latent = given.latent
    image = given.tensor(inpainting.CONCAT_IMAGE)
    picture = LATENT.to_model(at_size(torch.zeros_like(latent) if image is None else image.float(), latent))
    if channels <= 2 * LATENT.channels:
        return picture
    mask = given.tensor(inpainting.CONCAT_MASK)
    mask = given.mask if mask is None else mask
    mask = torch.ones_like(latent[:, :1]) if mask is None else mask.float().mean(dim=1, keepdim=True)
    height, width = latent.shape[-2:]
    mask = resize(mask, width * 8, height * 8, "bilinear", "center")
    mask = mask.reshape(len(mask), height, 8, width, 8).permute(0, 2, 4, 1, 3).flatten(1, 2)
    return torch.cat([picture, spread_rows(mask, len(latent)).to(picture)], dim=1)
