"""Qwen-Image and Qwen-Image-Edit (2509, Plus): a rectified flow over the latents of Wan's VAE.

Text is the hidden states of Qwen2.5-VL. Source: arXiv:2508.02324. Checkpoints have diffusers' own names.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import ClassVar

import torch
from diffusers.models.transformers.transformer_qwenimage import QwenImageTransformer2DModel
from torch import Tensor, nn

from backend.models.additions import NO_ADDITIONS, Additions
from backend.models.conditioning import Given, Inputs
from backend.models.families import references
from backend.models.families.blocks import added_of, controlled, guided, passed
from backend.models.families.flux import rope_axes
from backend.models.families.renaming import lora_names
from backend.models.families.sequence import (
    PATCH,
    angles,
    from_tokens,
    grid,
    padded,
    patches,
    phases,
    reference_pictures,
    reference_places,
    rounded,
    to_tokens,
)
from backend.models.families.wan import LATENT
from backend.models.header import Header
from backend.models.latent import LatentFormat
from backend.models.layer_name import LayerName
from backend.sampling.discretization import exponential_flow
from backend.sampling.prediction import Prediction
from backend.values import frozen

SHIFT = 1.15
OPTIONS = references.OPTIONS
THETA = 10000.0


@frozen
class QwenImage:
    """depth: number of blocks; head: channels of one; in_channels: of a latent."""

    latent: ClassVar[LatentFormat] = LATENT
    mixes_lengths: ClassVar[bool] = False
    width: int
    depth: int
    head: int
    in_channels: int
    context: int

    @property
    def prediction(self) -> Prediction:
        return Prediction("flow", exponential_flow(SHIFT))

    def build(self) -> QwenImageTransformer2DModel:
        with torch.device("meta"):
            network = QwenImageTransformer2DModel(
                patch_size=PATCH,
                in_channels=self.in_channels * PATCH**2,
                out_channels=LATENT.channels,
                num_layers=self.depth,
                attention_head_dim=self.head,
                num_attention_heads=self.width // self.head,
                joint_attention_dim=self.context,
                axes_dims_rope=rope_axes(self.head),
            )
        del network.pos_embed  # its tables would stay without numbers: places are worked out in `call`
        return network

    def convert(self, name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        yield name, weight

    def conditioning(self, given: Given) -> Inputs:
        """Reference pictures."""
        return Inputs(references.reference_inputs(given, LATENT, "index"))

    def call(
        self,
        module: nn.Module,
        x: Tensor,
        timesteps: Tensor,
        tokens: Tensor,
        extra: Mapping[str, Tensor],
        additions: Additions = NO_ADDITIONS,
    ) -> Tensor:
        """x [R, 16, 1, H, W]. extra: reference pictures (`references.py`), [R, 16, 1, h, w]."""
        assert isinstance(module, QwenImageTransformer2DModel)
        height, width = x.shape[-2:]
        shown, places = shown_tokens(x[:, :, 0], extra)
        rotary = self.rotary(places, x, tokens.shape[1])
        hidden = module.img_in(shown)
        text = module.txt_in(module.txt_norm(tokens))
        embed = module.time_text_embed
        time = embed.timestep_embedder(embed.time_proj(timesteps).to(x.dtype))
        (added, _), guides = added_of(additions), additions.guided()
        for number, block in enumerate(module.transformer_blocks):
            run = partial(run_block, block, time, rotary)
            hidden, text = passed(additions, "double", number, run, (hidden, text))
            hidden = controlled(guided(hidden, guides, number), added, number)
        hidden = hidden[:, : patches(height) * patches(width)]
        out: Tensor = module.proj_out(module.norm_out(hidden, time))
        return from_tokens(out, height, width)[:, :, None]

    def rotary(self, places: Tensor, x: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """How far the picture's tokens at these places are turned, and those of a text of this length."""
        first = max(patches(x.shape[-2]) // 2, patches(x.shape[-1]) // 2)
        line = torch.arange(first, first + length, dtype=torch.float64)
        axes = rope_axes(self.head)
        return (
            phases(angles(places, axes, THETA), x.device),
            phases(angles(line[:, None].expand(-1, 3), axes, THETA), x.device),
        )

    def activations(self, area: int) -> int:
        """As Flux's blocks, for the picture and 512 of text."""
        return 24 * self.width * (area // PATCH**2 + 512)

    def lora_names(self, site: str) -> tuple[LayerName, ...]:
        return lora_names(site, None)


def run_block(
    block: nn.Module, time: Tensor, rotary: tuple[Tensor, Tensor], hidden: Tensor, text: Tensor
) -> tuple[Tensor, ...]:
    text, hidden = block(
        hidden_states=hidden,
        encoder_hidden_states=text,
        encoder_hidden_states_mask=None,
        temb=time,
        image_rotary_emb=rotary,
    )
    return hidden, text


def detect(header: Header) -> QwenImage | None:
    """Qwen-Image: blocks with a modulation for each stream, whose text is normalised first."""
    return detect_blocks(header) if "proj_out.weight" in header else None


def detect_blocks(header: Header) -> QwenImage | None:
    """The same without its way out: what a ControlNet has too."""
    needed = (
        "txt_norm.weight",
        "txt_in.weight",
        "img_in.weight",
        "transformer_blocks.0.img_mod.1.weight",
        "transformer_blocks.0.attn.norm_q.weight",
    )
    if not header.has(*needed):
        return None
    width, shown = header.shape("img_in.weight")
    (head,) = header.shape("transformer_blocks.0.attn.norm_q.weight")
    depth = header.count("transformer_blocks.{}.")
    return QwenImage(width, depth, head, shown // PATCH**2, header.shape("txt_in.weight")[1])


def shown_tokens(x: Tensor, extra: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """All tokens of pictures [R, S, 64], and their places [S, 3], counted from each picture's middle."""
    size = (x.shape[-2], x.shape[-1])
    method, pictures = reference_pictures(extra)
    sizes = [(p.shape[-2], p.shape[-1]) for p in pictures]
    method = "index" if method in ("", "index") else "offset"
    shown, places = [to_tokens(padded(x))], [_centred(size, 0, 0, 0)]
    for picture, place in zip(pictures, reference_places(method, sizes, size), strict=True):
        shown.append(to_tokens(padded(picture[:, :, 0])))
        places.append(_centred((picture.shape[-2], picture.shape[-1]), *place))
    return torch.cat(shown, dim=1), torch.cat(places)


def _centred(size: tuple[int, int], index: int, top: int, left: int) -> Tensor:
    rows, columns = patches(size[0]), patches(size[1])
    return grid(rows, columns, index=index, top=rounded(top) - rows // 2, left=rounded(left) - columns // 2)
