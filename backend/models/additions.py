"""What rows of a forward pass ask for beside the plain network: a ControlNet's residuals, altered blocks.

All of it is said per row, so rows of several users share a pass whatever each of them asks for.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import field
from itertools import zip_longest
from typing import Literal, Protocol, TypeAlias

import torch
from torch import Tensor

from backend.errors import UnsupportedOption
from backend.patches import NO_BLOCKS, Blocks, Downscale, FreeU, HyperTile, TokenMerging
from backend.values import frozen

BlockPatch: TypeAlias = FreeU | Downscale
SharingPatches: TypeAlias = tuple[HyperTile | TokenMerging, ...]  # in each layer the first that applies
Watcher: TypeAlias = Callable[[int, Tensor], None]


class BlockCode(Protocol):
    """Functions of a node pack in a UNet's blocks. own: self-attention; index: of a transformer's block."""

    def enter(self, kind: str, number: int) -> None:
        """The blocks that follow: `input`, `middle` or `output`, by the checkpoints' numbers."""

    def inputs(
        self, own: bool, index: int, x: Tensor, context: Tensor, heads: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What queries, keys and values are made of."""

    def attention(
        self, own: bool, index: int, query: Tensor, key: Tensor, value: Tensor, heads: int
    ) -> Tensor | None:
        """Attention by another function; None: as usual."""

    def output(self, own: bool, index: int, out: Tensor, heads: int) -> Tensor:
        """The attention's output."""

    def after_input(self, h: Tensor, after_skip: bool) -> Tensor:
        """What an input block hands on."""

    def before_output(self, h: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        """What goes into an output block."""


class Draws:
    """Random choices of one evaluation, the same for all its rows: in the order in which layers make them."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator
        self._made: list[Tensor] = []

    def at(self, number: int, make: Callable[[torch.Generator], Tensor]) -> Tensor:
        """Choice `number`, counted from 0; the next one is made, and earlier ones are given again."""
        if number == len(self._made):
            self._made.append(make(self._generator))
        return self._made[number]


class BlockNetwork(Protocol):
    """A network that adds to the picture behind blocks of two streams (`models/model_patch.py`)."""

    def added(self, number: int, hidden: Tensor, hint: Tensor) -> Tensor | None:
        """To tokens [R, S, C] behind block `number`, for hints like them; None: nothing."""


@frozen(eq=False)
class Guide:
    """Such a network at work on a call. hint [B, S, C]: of the call's rows, in turn."""

    network: BlockNetwork
    hint: Tensor
    strength: float


@frozen(eq=False)
class Prefix:
    """Tokens [B, T, C] before those of the text, as wide as its: of the call's rows, in turn."""

    tokens: Tensor


@frozen
class Guided:
    """Rows of a pass that a network acts on: their numbers, their hints [n, S, C], strengths [n]."""

    network: BlockNetwork
    rows: Tensor
    hint: Tensor
    strengths: Tensor


@frozen
class Alteration:
    """How a call alters the network's blocks.

    blocks: those that are in force at the call's noise level; perturbed: self-attention in the middle block
    hands on its values; watcher: told, for each row of the call, how much attention each place got in that
    block, float32 [places]; without: blocks of a transformer that hand on what they are given (a UNet has
    none of them); sharing: how a UNet's self-attention asks for less, and the random choices in it; code: a
    node pack's functions in its blocks (such a call runs alone); guides: networks that act behind a
    transformer's blocks, one after the other; prefix: what stands before the text.
    """

    blocks: tuple[BlockPatch, ...] = ()
    perturbed: bool = False
    watcher: Watcher | None = field(default=None, compare=False)
    without: Blocks = NO_BLOCKS
    sharing: tuple[SharingPatches, Draws] | None = None
    code: BlockCode | None = None
    guides: tuple[Guide, ...] = ()
    prefix: Prefix | None = None

    @property
    def layout(self) -> Hashable:
        """Equal for rows whose pass has equal shapes inside."""
        deep = tuple(patch for patch in self.blocks if isinstance(patch, Downscale))
        return deep, 0 if self.prefix is None else self.prefix.tokens.shape[1]


UNALTERED = Alteration()


@frozen(eq=False)
class Residuals:
    """What control models add to a pass, [R, ...] each, and None where nothing is added.

    Of UNets: skips, to what each input block hands to the other side, in order; middle, behind the middle;
    inputs, behind each input block itself. Of transformers: blocks, singles, to the image behind each block
    of two streams, or of one.
    """

    skips: tuple[Tensor | None, ...] = ()
    middle: Tensor | None = None
    inputs: tuple[Tensor | None, ...] = ()
    blocks: tuple[Tensor | None, ...] = ()
    singles: tuple[Tensor | None, ...] = ()

    def each(self, change: Callable[[Tensor], Tensor]) -> "Residuals":
        """Every tensor changed."""

        def some(values: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
            return tuple(None if value is None else change(value) for value in values)

        middle = None if self.middle is None else change(self.middle)
        return Residuals(some(self.skips), middle, some(self.inputs), some(self.blocks), some(self.singles))

    def spread(self, rows: Tensor, count: int) -> "Residuals":
        """For a pass of `count` rows, of which these are the ones at `rows` (int64 [R]); 0 for the others."""
        return self.each(lambda value: _spread(value, rows, count))

    def plus(self, other: "Residuals") -> "Residuals":
        return Residuals(
            _sums(self.skips, other.skips),
            _sum(self.middle, other.middle),
            _sums(self.inputs, other.inputs),
            _sums(self.blocks, other.blocks),
            _sums(self.singles, other.singles),
        )


@frozen(eq=False)
class Row:
    """One row's alteration, and its number within its call."""

    alteration: Alteration = UNALTERED
    number: int = 0


@frozen(eq=False)
class Additions:
    """Beside a pass of R rows. rows: R of them, or () where none is altered; late: what is added behind a
    UNet's way down, asked for when the pass has come there.
    """

    residuals: Residuals | None = None
    rows: tuple[Row, ...] = ()
    late: Callable[[], Residuals] | None = None

    def perturbed(self) -> list[int]:
        """The rows without self-attention in the middle block."""
        return [i for i, row in enumerate(self.rows) if row.alteration.perturbed]

    def without(self, kind: Literal["double", "single"], number: int) -> list[int]:
        """The rows that a transformer's block leaves as they are."""
        return [i for i, row in enumerate(self.rows) if number in getattr(row.alteration.without, kind)]

    def guided(self) -> list[Guided]:
        """The networks behind blocks, in the order in which each row has them."""
        found: dict[tuple[int, int, tuple[int, ...]], list[tuple[int, Row, Guide]]] = {}
        for i, row in enumerate(self.rows):
            for turn, guide in enumerate(row.alteration.guides):
                alike = (turn, id(guide.network), tuple(guide.hint.shape[1:]))
                found.setdefault(alike, []).append((i, row, guide))
        return [_guided(found[alike]) for alike in sorted(found, key=lambda alike: alike[0])]

    def prefix(self) -> Tensor | None:
        """What stands before the text of each row [R, T, C]; all rows of a pass have as many."""
        held = [(row.alteration.prefix, row.number) for row in self.rows]
        made = [p.tokens[number % len(p.tokens)] for p, number in held if p is not None]
        return torch.stack(made) if made else None

    def sharing(self) -> list[tuple[tuple[SharingPatches, Draws], list[int]]]:
        """Every way to share self-attention and the rows that have it; rows that do not are left out."""
        found: dict[tuple[SharingPatches, Draws], list[int]] = {}
        for i, row in enumerate(self.rows):
            if row.alteration.sharing is not None:
                found.setdefault(row.alteration.sharing, []).append(i)
        return list(found.items())

    @property
    def code(self) -> BlockCode | None:
        """The functions of a pass that has any: it is one call's alone."""
        return self.rows[0].alteration.code if self.rows else None

    def watchers(self) -> list[tuple[int, Callable[[Tensor], None]]]:
        """The rows whose attention is watched, and who is told of it."""
        return [
            (i, _for_row(row.alteration.watcher, row.number))
            for i, row in enumerate(self.rows)
            if row.alteration.watcher is not None
        ]

    def stacks(self) -> list[tuple[tuple[BlockPatch, ...], list[int]]]:
        """Every list of block patches and the rows that have it; rows without any are left out."""
        found: dict[tuple[BlockPatch, ...], list[int]] = {}
        for i, row in enumerate(self.rows):
            if row.alteration.blocks:
                found.setdefault(row.alteration.blocks, []).append(i)
        return list(found.items())


NO_ADDITIONS = Additions()


def additions_of(
    rows: Sequence[Row], residuals: Residuals | None, late: Callable[[], Residuals] | None = None
) -> Additions:
    """Beside a pass of these rows."""
    altered = any(row.alteration != UNALTERED or row.alteration.watcher for row in rows)
    plain = not altered and residuals is None and late is None
    return NO_ADDITIONS if plain else Additions(residuals, tuple(rows), late)


def _guided(members: Sequence[tuple[int, Row, Guide]]) -> Guided:
    hints = [guide.hint[row.number % len(guide.hint)] for _, row, guide in members]
    device = hints[0].device
    return Guided(
        members[0][2].network,
        torch.tensor([i for i, _, _ in members], device=device),
        torch.stack(hints),
        torch.tensor([guide.strength for _, _, guide in members], device=device),
    )


def _for_row(watcher: Watcher, number: int) -> Callable[[Tensor], None]:
    return lambda attention: watcher(number, attention)


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    """Raises: UnsupportedOption where they are additions to different networks."""
    if one is None or other is None:
        return other if one is None else one
    if one.shape != other.shape:
        shapes = f"additions of shapes {list(one.shape[1:])} and {list(other.shape[1:])} in one place"
        raise UnsupportedOption("control_net", shapes, "Chain only ControlNets that are for one model.")
    return one + other


def _sums(ones: tuple[Tensor | None, ...], others: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    return tuple(_sum(one, other) for one, other in zip_longest(ones, others))


def _spread(value: Tensor, rows: Tensor, count: int) -> Tensor:
    if len(value) == count:
        return value[rows.argsort()]
    return value.new_zeros(count, *value.shape[1:]).index_copy(0, rows, value)
