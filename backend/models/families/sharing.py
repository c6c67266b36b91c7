"""Self-attention that asks for less: in tiles (HyperTile), or for some places on behalf of others (ToMe).

Only the queries change; keys and values stay those of all places. A `Sharing` says how the queries of some
rows become fewer or shorter, and how what they got goes back to all places.
"""

import math
from collections.abc import Callable
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from backend.models.additions import SharingPatches
from backend.patches import HyperTile, TokenMerging
from backend.values import frozen

LEAST_TILE = 32  # pixels
STRIDE = 2  # one place of each so many, both ways, stays where places are merged
Draw: TypeAlias = Callable[[Callable[[torch.Generator], Tensor]], Tensor]


class Sharing(Protocol):
    def asks(self, query: Tensor) -> Tensor:
        """[R, n, C] -> [R * k, m, C]: the queries that are made, those of a row together."""
        ...

    def spread(self, out: Tensor) -> Tensor:
        """What the queries got -> [R, n, C]."""
        ...


def shared(patches: SharingPatches, x: Tensor, size: tuple[int, int], draw: Draw) -> Sharing | None:
    """What the first patch that has to do with a layer makes of its self-attention; None: there is none.

    Args: x [R, n, C], the layer's input; size: height and width of the network's input; draw: makes a random
        choice, or gives the one that was made for another row.
    """
    for patch in patches:
        made: Sharing | None
        match patch:
            case HyperTile():
                made = _tiles(patch, x, size, draw)
            case TokenMerging():
                made = _merging(patch, x, size, draw)
        if made is not None:
            return made
    return None


@frozen
class Tiles:
    """down x across tiles of a map of height x width places.

    Each tile's queries see a stretch of the places in reading order, not its own tile: so ComfyUI has it.
    """

    down: int
    across: int
    height: int
    width: int

    def asks(self, query: Tensor) -> Tensor:
        high, wide = self.height // self.down, self.width // self.across
        tiles = query.reshape(len(query), self.down, high, self.across, wide, -1).transpose(2, 3)
        return tiles.reshape(len(query) * self.down * self.across, high * wide, -1)

    def spread(self, out: Tensor) -> Tensor:
        rows, high = len(out) // (self.down * self.across), self.height // self.down
        tiles = out.reshape(rows, self.down, self.across, high, self.width // self.across, -1)
        return tiles.transpose(2, 3).reshape(rows, self.height * self.width, -1)


def _tiles(patch: HyperTile, x: Tensor, size: tuple[int, int], draw: Draw) -> Tiles | None:
    places = x.shape[1]
    areas = [(size[0] / 2**level) * (size[1] / 2**level) for level in range(patch.depth + 1)]
    if places not in areas:
        return None
    aspect = size[1] / size[0]
    height, width = (
        round(math.sqrt(places * aspect)),
        round(math.sqrt(places / aspect)),
    )  # ComfyUI's way round
    least = max(LEAST_TILE, patch.tile) // 8 * (2 ** areas.index(places) if patch.grow else 1)
    down, across = (_count(side, least, patch.choices, draw) for side in (height, width))
    return Tiles(down, across, height, width) if down * across > 1 else None


def _count(side: int, least: int, choices: int, draw: Draw) -> int:
    """How many tiles a side is cut into: one of the largest numbers that keep them at `least` places."""
    sizes = [size for size in range(min(least, side), side + 1) if side % size == 0][:choices]
    if len(sizes) == 1:
        return side // sizes[0]
    chosen = draw(lambda g: torch.randint(0, len(sizes) - 1, (1,), generator=g, device=g.device))
    return side // sizes[int(chosen)]


@frozen(eq=False)
class Merging:
    """places: of a row; kept [1, k, 1]: one in each region, the others [1, n - k, 1] may be merged.

    alone [R, u, 1], merged [R, r, 1]: indices among the others; into [R, r, 1]: among the kept.
    """

    places: int
    kept: Tensor
    others: Tensor
    alone: Tensor
    merged: Tensor
    into: Tensor

    def asks(self, query: Tensor) -> Tensor:
        others, kept = _taken(query, self.others), _taken(query, self.kept)
        moved, into = _taken(others, self.merged), _wide(self.into, query)
        kept = kept.scatter_reduce(1, into, moved, reduce="mean")
        return torch.cat([_taken(others, self.alone), kept], dim=1)

    def spread(self, out: Tensor) -> Tensor:
        alone, kept = out[:, : self.alone.shape[1]], out[:, self.alone.shape[1] :]
        result = out.new_empty(len(out), self.places, out.shape[2])
        others = self.others.expand(len(out), -1, -1)
        for index, value in (
            (self.kept, kept),
            (others.gather(1, self.alone), alone),
            (others.gather(1, self.merged), _taken(kept, self.into)),
        ):
            result.scatter_(1, _wide(index, out), value)
        return result


def _merging(patch: TokenMerging, x: Tensor, size: tuple[int, int], draw: Draw) -> Merging | None:
    """Bipartite soft matching on the input's likeness: arXiv:2303.17604, sections 3 and 4.

    At the finest resolution alone.
    """
    height, width = size
    places = x.shape[1]
    count = int(places * patch.ratio)
    if math.ceil(math.sqrt(height * width // places)) > 1 or count <= 0 or min(size) == 1:
        return None
    down, across = height // STRIDE, width // STRIDE
    shape = (down, across, 1)
    chosen = draw(lambda g: torch.randint(STRIDE * STRIDE, shape, device=g.device, generator=g)).to(x.device)
    marks = torch.zeros(down, across, STRIDE * STRIDE, dtype=torch.int64, device=x.device)
    regions = marks.scatter(2, chosen, -1).view(down, across, STRIDE, STRIDE).transpose(1, 2)
    whole = torch.zeros(height, width, dtype=torch.int64, device=x.device)
    whole[: down * STRIDE, : across * STRIDE] = regions.reshape(down * STRIDE, across * STRIDE)
    order = whole.reshape(1, -1, 1).argsort(dim=1)
    kept, others = order[:, : down * across], order[:, down * across :]
    unit = x / x.norm(dim=-1, keepdim=True)
    likeness = _taken(unit, others) @ _taken(unit, kept).transpose(1, 2)
    best, nearest = likeness.max(dim=-1)
    ranked = best.argsort(dim=-1, descending=True)[..., None]
    merged, alone = ranked[:, :count], ranked[:, count:]
    return Merging(places, kept, others, alone, merged, nearest[..., None].gather(1, merged))


def _taken(values: Tensor, index: Tensor) -> Tensor:
    """values [R, n, C] at index [1 or R, k, 1]: [R, k, C]."""
    return values.gather(1, _wide(index, values))


def _wide(index: Tensor, values: Tensor) -> Tensor:
    return index.expand(len(values), -1, values.shape[2])
