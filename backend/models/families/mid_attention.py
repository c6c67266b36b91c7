"""Self-attention in a UNet's middle block, as rows of a pass may want it: plain, left out, or watched."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from backend.models.additions import Additions


@dataclass(frozen=True, slots=True, eq=False)
class Sight:
    """perturbed: the rows whose attention hands on its values; watchers: rows to report, and to whom."""

    perturbed: list[int]
    watchers: list[tuple[int, Callable[[Tensor], None]]]


def sight_of(additions: Additions) -> Sight | None:
    """None where all rows are plain."""
    perturbed, watchers = additions.perturbed(), additions.watchers()
    return Sight(perturbed, watchers) if perturbed or watchers else None


def install(module: UNet2DConditionModel) -> None:
    """Let the middle block of a network that is being built take a `Sight`."""
    for transformer in module.mid_block.attentions:
        for number, block in enumerate(transformer.transformer_blocks):
            block.attn1.set_processor(MidAttention(own=True, first=number == 0))
            block.attn2.set_processor(MidAttention(own=False, first=False))


class MidAttention:
    """An attention processor of diffusers'. own: it is self-attention; first: of the block's first layer."""

    def __init__(self, own: bool, first: bool) -> None:
        self._own, self._first = own, first

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        sight: Sight | None = None,
    ) -> Tensor:
        """hidden_states [R, n, C] -> [R, n, C]."""
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = attn.to_q(hidden_states), attn.to_k(source), attn.to_v(source)
        q, k, v = (part.unflatten(2, (attn.heads, -1)).transpose(1, 2) for part in (query, key, value))
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        if sight is not None and self._own:
            if self._first:
                for row, watcher in sight.watchers:
                    watcher(_received(q[row], k[row]))
            if sight.perturbed:
                rows = torch.tensor(sight.perturbed, device=out.device)
                out = out.index_copy(0, rows, value[rows])
        mixed: Tensor = attn.to_out[0](out)
        return mixed


def _received(query: Tensor, key: Tensor) -> Tensor:
    """[heads, n, c] each -> float32 [n]: the attention that each place got, averaged over the heads."""
    scores = (query.float() @ key.float().transpose(1, 2)) * query.shape[-1] ** -0.5
    received: Tensor = scores.softmax(-1).mean(0).sum(0)
    return received
