"""Which model calls fit one forward pass, and that pass: rows of several ops side by side.

Pure but for the model: calls in, raw outputs back, in the same order.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import lcm
from typing import Protocol

import torch
from torch import Tensor

from backend.models.lora import Patch
from backend.types import OpKey

_MOST_REPEATS = 4  # of the shortest tokens to reach the common length; ComfyUI's limit too


class Network(Protocol):
    """What a step loop needs of a denoiser (`models/denoiser.py`)."""

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        tokens: Tensor,
        extra: Mapping[str, Tensor] | None = None,
        adapters: Sequence[Sequence[Patch]] = (),
    ) -> Tensor: ...


@dataclass(frozen=True, slots=True, eq=False)
class ModelCall:
    """One condition of one op's pending request.

    x [B, ...], scaled for the network; timesteps [B]; tokens [B, T, C]; extra: the network's other inputs,
    [B, ...] each; patches: the op's LoRAs.
    """

    op: OpKey
    network: Network
    x: Tensor
    timesteps: Tensor
    tokens: Tensor
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    patches: tuple[Patch, ...] = ()


@dataclass(frozen=True, slots=True)
class Pass:
    """One forward pass as the counters see it: how many rows, of how many ops."""

    rows: int
    ops: int


def groups(calls: Sequence[ModelCall]) -> list[list[int]]:
    """Indices of calls that may run in one pass, each index once, in order of first call.

    The same network, dtype and shape of a row and of its extra inputs. Tokens may differ in number where
    repeating each to their common multiple is cheap: attention over repeated tokens gives equal results.
    LoRAs may differ: they apply per row.
    """
    found: list[tuple[object, list[int]]] = []
    for index, call in enumerate(calls):
        layout = _layout(call)
        for other, members in found:
            if other == layout and _lengths_fit([calls[i].tokens.shape[1] for i in (*members, index)]):
                members.append(index)
                break
        else:
            found.append((layout, [index]))
    return [members for _, members in found]


def run(calls: Sequence[ModelCall], max_rows: int) -> tuple[list[Tensor], list[Pass]]:
    """Run the calls of one group, in passes of at most `max_rows` rows.

    Returns: each call's raw output, [B, ...], and the passes that were made.
    """
    x = torch.cat([call.x for call in calls])
    timesteps = torch.cat([call.timesteps for call in calls])
    length = lcm(*(call.tokens.shape[1] for call in calls))
    tokens = torch.cat([call.tokens.repeat(1, length // call.tokens.shape[1], 1) for call in calls])
    extra = {name: torch.cat([call.extra[name] for call in calls]) for name in calls[0].extra}
    owners = [call for call in calls for _ in range(len(call.x))]
    outputs, passes = [], []
    for rows in _chunks(len(x), max_rows):
        mine = owners[rows]
        adapters = [call.patches for call in mine] if any(call.patches for call in mine) else ()
        given = {name: value[rows] for name, value in extra.items()}
        network = calls[0].network
        outputs.append(network.forward(x[rows], timesteps[rows], tokens[rows], given, adapters))
        passes.append(Pass(len(mine), len({call.op for call in mine})))
    sizes = [len(call.x) for call in calls]
    return list(torch.split(torch.cat(outputs), sizes)), passes


def _layout(call: ModelCall) -> object:
    extra = sorted((name, tuple(value.shape[1:]), value.dtype) for name, value in call.extra.items())
    return id(call.network), tuple(call.x.shape[1:]), call.x.dtype, call.tokens.shape[2], extra


def _lengths_fit(lengths: Sequence[int]) -> bool:
    return lcm(*lengths) // min(lengths) <= _MOST_REPEATS


def _chunks(rows: int, most: int) -> Iterator[slice]:
    """Parts of nearly equal size, each at most `most`: 9 rows in passes of 8 are 5 and 4."""
    parts = -(-rows // max(1, most))
    size, more = divmod(rows, parts)
    start = 0
    for part in range(parts):
        end = start + size + (part < more)
        yield slice(start, end)
        start = end
