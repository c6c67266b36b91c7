"""A transformer's block, for rows of which some leave it out."""

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from backend.models.additions import Additions

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
