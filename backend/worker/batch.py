"""Which model calls fit one forward pass, and that pass: rows of several ops side by side.

Pure but for the model: calls in, raw outputs back, in the same order.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field
from functools import partial, reduce
from math import lcm
from time import perf_counter
from typing import Protocol

import torch
from torch import Tensor

from backend.components import Weights
from backend.models.additions import (
    NO_ADDITIONS,
    UNALTERED,
    Additions,
    Alteration,
    Residuals,
    Row,
    additions_of,
)
from backend.models.control_layout import ControlInputs, HintFormat
from backend.models.controlnet import scaled
from backend.models.lora import Patch
from backend.types import ComponentId, OpKey
from backend.values import frozen

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
        additions: Additions = NO_ADDITIONS,
    ) -> Tensor: ...

    def working_bytes(self, rows: int, shape: Sequence[int]) -> int:
        """What a forward pass takes beside the weights. shape: of x; its first number does not count."""
        ...


class ControlNetwork(Protocol):
    """What a step loop needs of a control model (`models/controlnet.py`)."""

    @property
    def weights(self) -> Weights: ...

    @property
    def hint(self) -> HintFormat: ...

    @property
    def late(self) -> bool:
        """Whether what it adds is needed behind the way down of the denoiser, and not before."""
        ...

    def begin(self, given: ControlInputs) -> Callable[[], Residuals]:
        """See to it that what it adds is there when it is asked for, or is computed then."""
        ...


@frozen(eq=False)
class Elsewhere:
    """A control model that another device asks; what that does not bring back is computed here.

    ask: sends the inputs of some rows. Returns: what waits for the answer, None where there is none.
    """

    network: ControlNetwork
    ask: Callable[[Weights, ControlInputs], Callable[[], Residuals | None]]

    @property
    def weights(self) -> Weights:
        return self.network.weights

    @property
    def hint(self) -> HintFormat:
        return self.network.hint

    @property
    def late(self) -> bool:
        return self.network.late

    def begin(self, given: ControlInputs) -> Callable[[], Residuals]:
        answer = self.ask(self.weights, given)

        def made() -> Residuals:
            found = answer()
            if found is None:
                return self.network.begin(given)()
            return found.each(lambda value: value.to(given.x.device))

        return made


@frozen(eq=False)
class Control:
    """A control model's part in a call.

    hint [B, C, H, W]; tokens: in place of the call's own; kind: of hint.
    """

    network: ControlNetwork
    hint: Tensor
    strength: float
    average: bool = False
    tokens: Tensor | None = None
    kind: int | None = None


@frozen(eq=False)
class ModelCall:
    """One condition of one op's pending request.

    x [B, ...], scaled for the network; timesteps [B]; tokens [B, T, C]; extra: the network's other inputs,
    [B, ...] each; patches: the op's LoRAs and (hooked) the condition's; controls: ControlNets whose residuals
    are added up; alteration: what its rows change in the network's blocks; mixes_lengths: its tokens may be
    repeated.
    """

    op: OpKey
    network: Network
    x: Tensor
    timesteps: Tensor
    tokens: Tensor
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    patches: tuple[Patch, ...] = ()
    hooked: bool = False
    controls: tuple[Control, ...] = ()
    alteration: Alteration = UNALTERED
    mixes_lengths: bool = True


@frozen
class Beside:
    """What a pass spent on a control model: computing so many rows, or (here=False) waiting for them."""

    component: ComponentId
    rows: int
    seconds: float
    here: bool


@frozen
class Pass:
    """One forward pass as the counters see it: how many rows, of how many ops, and its control models."""

    rows: int
    ops: int
    beside: tuple[Beside, ...] = ()


def groups(calls: Sequence[ModelCall]) -> list[list[int]]:
    """Indices of calls that may run in one pass, each index once, in order of first call.

    The same network, dtype and shape of a row and of its extra inputs. Tokens may differ in number where the
    model allows it and repeating each to their common multiple is cheap: cross attention over repeated tokens
    gives equal results.
    LoRAs, ControlNets and most alterations may differ: they apply per row.
    """
    found: list[tuple[object, list[int]]] = []
    for index, call in enumerate(calls):
        form = layout(call)
        for other, members in found:
            if other == form and _lengths_fit([calls[i].tokens.shape[1] for i in (*members, index)]):
                members.append(index)
                break
        else:
            found.append((form, [index]))
    return [members for _, members in found]


def unclaimed(call: ModelCall, rows: int) -> None:
    """The `claim` of who need not ask for memory."""


def run(
    calls: Sequence[ModelCall], max_rows: int, claim: Callable[[ModelCall, int], None] = unclaimed
) -> tuple[list[Tensor], list[Pass]]:
    """Run the calls of one group, in passes of at most `max_rows` rows.

    claim: told of each pass before it runs, by one of its calls and the number of rows; it may raise.
    Returns: each call's raw output, [B, ...], and the passes that were made.
    """
    x = torch.cat([call.x for call in calls])
    timesteps = torch.cat([call.timesteps for call in calls])
    length = lcm(*(call.tokens.shape[1] for call in calls))
    tokens = torch.cat([call.tokens.repeat(1, length // call.tokens.shape[1], 1) for call in calls])
    extra = {name: torch.cat([call.extra[name] for call in calls]) for name in calls[0].extra}
    owners = [call for call in calls for _ in range(len(call.x))]
    numbers = [number for call in calls for number in range(len(call.x))]
    outputs, passes = [], []
    for rows in _chunks(len(x), max_rows):
        mine = owners[rows]
        adapters = [call.patches for call in mine] if any(call.patches for call in mine) else ()
        given = {name: value[rows] for name, value in extra.items()}
        network = calls[0].network
        claim(calls[0], len(mine))
        spent = list[Beside]()
        parts = _Rows(x[rows], timesteps[rows], tokens[rows], given)
        beside = _additions(mine, numbers[rows], parts, spent.append)
        outputs.append(network.forward(x[rows], timesteps[rows], tokens[rows], given, adapters, beside))
        passes.append(Pass(len(mine), len({call.op for call in mine}), tuple(spent)))
    sizes = [len(call.x) for call in calls]
    return list(torch.split(torch.cat(outputs), sizes)), passes


def layout(call: ModelCall) -> object:
    """Equal for calls whose rows may stand in one pass: network, shape, dtype, tokens, extra inputs."""
    extra = tuple(sorted((name, tuple(value.shape[1:]), value.dtype) for name, value in call.extra.items()))
    shape = tuple(call.x.shape[1:])
    tokens = call.tokens.shape[2:] if call.mixes_lengths else call.tokens.shape[1:]
    return id(call.network), shape, call.x.dtype, tuple(tokens), extra, call.alteration.layout


@frozen(eq=False)
class _Rows:
    """Of one pass."""

    x: Tensor
    timesteps: Tensor
    tokens: Tensor
    extra: Mapping[str, Tensor]


def _additions(
    calls: Sequence[ModelCall], numbers: Sequence[int], pass_rows: _Rows, spent: Callable[[Beside], None]
) -> Additions:
    """Beside a pass of rows that belong to these calls, each under its number within its call.

    spent: told of each control model that has been asked.
    """
    uses: dict[object, list[tuple[int, Control]]] = {}
    for row, call in enumerate(calls):
        for control in call.controls:
            own = 0 if control.tokens is None else control.tokens.shape[1]
            alike = (id(control.network), control.average, own, tuple(control.hint.shape[1:]), control.kind)
            uses.setdefault(alike, []).append((row, control))
    soon, late = list[Callable[[], Residuals]](), list[Callable[[], Residuals]]()
    for used in uses.values():
        for rows, controls in _once_each(used):
            part = _controlled(rows, controls, numbers, pass_rows)
            (late if controls[0].network.late else soon).append(partial(part, spent))
    rows_of_pass = [Row(call.alteration, number) for call, number in zip(calls, numbers, strict=True)]
    residuals = _summed(soon) if soon else None
    return additions_of(rows_of_pass, residuals, partial(_summed, late) if late else None)


def _summed(parts: Sequence[Callable[[], Residuals]]) -> Residuals:
    return reduce(Residuals.plus, (part() for part in parts))


def _controlled(
    rows: Sequence[int], controls: Sequence[Control], numbers: Sequence[int], pass_rows: _Rows
) -> Callable[[Callable[[Beside], None]], Residuals]:
    """One pass of the network that these controls share, for their rows: begun, and its end."""
    index = torch.tensor(rows, device=pass_rows.x.device)
    chosen = list(zip(rows, controls, strict=True))
    own = [pass_rows.tokens[row] if c.tokens is None else c.tokens[numbers[row]] for row, c in chosen]
    inputs = ControlInputs(
        pass_rows.x[index],
        torch.stack([control.hint[numbers[row]] for row, control in chosen]),
        pass_rows.timesteps[index],
        torch.stack(own),
        {name: value[index] for name, value in pass_rows.extra.items()},
        controls[0].kind,
    )
    network, begun = controls[0].network, controls[0].network.begin(inputs)

    def end(spent: Callable[[Beside], None]) -> Residuals:
        started = perf_counter()
        made = begun()
        here = not isinstance(network, Elsewhere)
        spent(Beside(network.weights.id, len(rows), perf_counter() - started, here))
        strengths = torch.tensor([control.strength for control in controls])
        return scaled(made, strengths, controls[0].average).spread(index, len(pass_rows.x))

    return end


def _once_each(used: Sequence[tuple[int, Control]]) -> Iterator[tuple[list[int], list[Control]]]:
    """Rows and their controls, in turns that have no row twice: a chain may use a network more than once."""
    left = list(used)
    while left:
        turn: dict[int, Control] = {}
        rest = []
        for row, control in left:
            if row in turn:
                rest.append((row, control))
            else:
                turn[row] = control
        yield list(turn), list(turn.values())
        left = rest


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
