"""A transformer's block, for rows of which some leave it out."""

from collections.abc import Callable, Sequence
from typing import Literal, NoReturn, TypeAlias

import torch
from torch import Tensor

from backend.errors import UnsupportedOption
from backend.models.additions import Additions, Guided

Streams: TypeAlias = tuple[Tensor, ...]


def passed(
    additions: Additions,
    kind: Literal["double", "single"],
    number: int,
    block: Callable[..., Streams],
    streams: Streams,
) -> Streams:
    """What a block makes of its streams [R, S, C] each; rows that are without it keep theirs."""
    left_out = additions.without(kind, number)
    if not left_out:
        return block(*streams)
    if len(left_out) == len(streams[0]):
        return streams
    rows = torch.tensor(left_out, device=streams[0].device)
    made = block(*streams)
    return tuple(new.index_copy(0, rows, old[rows]) for new, old in zip(made, streams, strict=True))


def controlled(hidden: Tensor, added: Sequence[Tensor | None], number: int) -> Tensor:
    """The picture's tokens [R, S, C] behind block `number`, with what a ControlNet adds there.

    To the latent's tokens alone, which come first. Raises: UnsupportedOption for what another model's
    ControlNet adds.
    """
    value = added[number] if number < len(added) else None
    if value is None:
        return hidden
    own = value.shape[1]
    if own > hidden.shape[1] or value.shape[2] != hidden.shape[2]:
        _refuse(f"additions of shape {list(value.shape[1:])} where the model has {list(hidden.shape[1:])}")
    if own == hidden.shape[1]:
        return hidden + value.to(hidden)
    return torch.cat([hidden[:, :own] + value.to(hidden), hidden[:, own:]], dim=1)


def guided(hidden: Tensor, guides: Sequence[Guided], number: int) -> Tensor:
    """The picture's tokens [R, S, C] behind block `number`, with what networks add there to those of rows.

    To the latent's tokens alone, which come first. Raises: UnsupportedOption for another model's network.
    """
    for guide in guides:
        own = guide.hint.shape[1]
        part = hidden[guide.rows, :own]
        made = guide.network.added(number, part, guide.hint)
        if made is None:
            continue
        hidden = hidden.clone()
        hidden[guide.rows, :own] = part + made * guide.strengths.to(made)[:, None, None]
    return hidden


def preceded(text: Tensor, additions: Additions) -> Tensor:
    """The text's tokens [R, T, C] behind those that rows have before it. Raises: UnsupportedOption."""
    before = additions.prefix()
    if before is None:
        return text
    if before.shape[2] != text.shape[2]:
        value = f"tokens of {before.shape[2]} channels where the model has {text.shape[2]}"
        raise UnsupportedOption("model_patch", value, "Use a model patch that was made for this model.")
    return torch.cat([before.to(text), text], dim=1)


def added_of(additions: Additions) -> tuple[tuple[Tensor | None, ...], tuple[Tensor | None, ...]]:
    """What ControlNets add behind blocks of two streams, and of one. Raises: UnsupportedOption."""
    residuals = additions.residuals
    if additions.late is not None:
        _refuse("additions to the blocks of a UNet")
    if residuals is None:
        return (), ()
    if residuals.skips or residuals.inputs or residuals.middle is not None:
        _refuse("additions to the blocks of a UNet")
    return residuals.blocks, residuals.singles


def _refuse(value: str) -> NoReturn:
    raise UnsupportedOption("control_net", value, "Use a ControlNet that was made for this model.")
