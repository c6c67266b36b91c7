"""Attention in a UNet as rows of a pass may want it: plain, left out, watched, tiled, or merged."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from backend.models.additions import Additions, BlockCode, Draws, SharingPatches
from backend.models.families.sharing import Sharing, shared
from backend.values import frozen


@dataclass(slots=True, eq=False)
class Group:
    """Rows that share attention alike. drawn: random choices that the pass has come by."""

    rows: list[int]
    patches: SharingPatches
    draws: Draws
    drawn: int = 0

    def draw(self, make: Callable[[torch.Generator], Tensor]) -> Tensor:
        """The next random choice."""
        self.drawn += 1
        return self.draws.at(self.drawn - 1, make)


@frozen(eq=False)
class Sight:
    """perturbed: the rows whose attention in the middle hands on its values; watchers: rows to report there,
    and to whom; groups: rows that share attention; size: of the network's input, height and width; code:
    a node pack's functions.
    """

    perturbed: list[int]
    watchers: list[tuple[int, Callable[[Tensor], None]]]
    groups: list[Group] = field(default_factory=list)
    size: tuple[int, int] = (0, 0)
    code: BlockCode | None = None


def sight_of(additions: Additions, size: tuple[int, int]) -> Sight | None:
    """None where all rows are plain."""
    perturbed, watchers = additions.perturbed(), additions.watchers()
    groups = [Group(rows, patches, draws) for (patches, draws), rows in additions.sharing()]
    seen = perturbed or watchers or groups or additions.code is not None
    return Sight(perturbed, watchers, groups, size, additions.code) if seen else None


def install(module: UNet2DConditionModel) -> None:
    """Let the attention of a network that is being built take a `Sight`."""
    middle = {id(block) for block in _blocks(module.mid_block)}
    first = next(iter(_blocks(module.mid_block)), None)
    places = _places(module)
    for block in _blocks(module):
        inside, index = id(block) in middle, places.get(id(block), 0)
        block.attn1.set_processor(SeeingAttention(True, inside, block is first, index))
        if block.attn2 is not None:
            block.attn2.set_processor(SeeingAttention(False, inside, False, index))


def _places(module: torch.nn.Module) -> dict[int, int]:
    """Each block's number in its transformer, by its id."""
    lists = (getattr(part, "transformer_blocks", ()) for part in module.modules())
    return {id(block): index for blocks in lists for index, block in enumerate(blocks)}


def _blocks(module: torch.nn.Module) -> Iterator[BasicTransformerBlock]:
    return (part for part in module.modules() if isinstance(part, BasicTransformerBlock))


class SeeingAttention:
    """An attention processor of diffusers'. own: it is self-attention; middle: of the middle block; first: of
    that block's first layer; index: of its block in the transformer.
    """

    def __init__(self, own: bool, middle: bool, first: bool, index: int = 0) -> None:
        self._own, self._middle, self._first, self._index = own, middle, first, index

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
        if sight is not None and sight.code is not None:
            return self._coded(sight, sight.code, attn, hidden_states, source)
        query, key, value = attn.to_q(hidden_states), attn.to_k(source), attn.to_v(source)
        if sight is None or not self._own:
            out = attended(query, key, value, attn.heads)
        else:
            out = self._seen(sight, hidden_states, (query, key, value), attn.heads)
        mixed: Tensor = attn.to_out[0](out)
        return mixed

    def _coded(
        self, sight: Sight, code: BlockCode, attn: Attention, hidden_states: Tensor, source: Tensor
    ) -> Tensor:
        """With a node pack's functions around it, or in its place."""
        own, index, heads = self._own, self._index, attn.heads
        x, context, value = code.inputs(own, index, hidden_states, source, heads)
        parts = (attn.to_q(x), attn.to_k(context), attn.to_v(value))
        out = code.attention(own, index, *parts, heads)
        if out is None:
            out = self._seen(sight, hidden_states, parts, heads) if own else attended(*parts, heads)
        mixed: Tensor = attn.to_out[0](out)
        return code.output(own, index, mixed, heads)

    def _seen(self, sight: Sight, x: Tensor, parts: tuple[Tensor, Tensor, Tensor], heads: int) -> Tensor:
        query, key, value = parts
        out = _in_groups(sight, x, parts, heads)
        if self._first:
            for row, watcher in sight.watchers:
                watcher(_received(query[row], key[row], heads))
        if self._middle and sight.perturbed:
            rows = torch.tensor(sight.perturbed, device=out.device)
            out = out.index_copy(0, rows, value[rows])
        return out


def attended(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Attention of [R, n, C] to [R, m, C]: [R, n, C]."""
    q, k, v = (
        part.unflatten(2, (heads, -1)).transpose(1, 2)  # type: ignore[no-untyped-call]
        for part in (query, key, value)
    )
    out: Tensor = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    return out


def _in_groups(sight: Sight, x: Tensor, parts: tuple[Tensor, Tensor, Tensor], heads: int) -> Tensor:
    """Self-attention, that of each group's rows as it wants it."""
    apart: list[tuple[list[int], Sharing]] = []
    for group in sight.groups:
        sharing = shared(group.patches, x[group.rows], sight.size, group.draw)
        if sharing is not None:
            apart.append((group.rows, sharing))
    if not apart:
        return attended(parts[0], parts[1], parts[2], heads)
    out = torch.empty_like(parts[0])
    taken = {row for rows, _ in apart for row in rows}
    plain = [row for row in range(len(x)) if row not in taken]
    if plain:
        out[plain] = attended(parts[0][plain], parts[1][plain], parts[2][plain], heads)
    for rows, sharing in apart:
        query, key, value = (part[rows] for part in parts)
        out[rows] = _shared(sharing, query, key, value, heads)
    return out


def _shared(sharing: Sharing, query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    asking = sharing.asks(query)
    count = len(asking) // len(query)
    key, value = (part.reshape(len(asking), part.shape[1] // count, -1) for part in (key, value))
    return sharing.spread(attended(asking, key, value, heads))


def _received(query: Tensor, key: Tensor, heads: int) -> Tensor:
    """[n, C] each -> float32 [n]: the attention that each place got, averaged over the heads."""
    q, k = (part.unflatten(1, (heads, -1)).transpose(0, 1).float() for part in (query, key))  # type: ignore[no-untyped-call]
    scores = (q @ k.transpose(1, 2)) * q.shape[-1] ** -0.5
    received: Tensor = scores.softmax(-1).mean(0).sum(0)
    return received
