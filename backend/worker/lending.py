"""Parts of one run, computed by another device: the halves of CFG side by side (adaptive parallelism), and
ControlNets beside the denoiser.

The device that runs the op (the lead) keeps its sampler, its conditions and its share of the calls; the rest
goes to a device that holds the same components (the helper) as a `Loan`, and comes back as raw outputs. A
device that holds its ControlNets computes, as a `ControlLoan`, what these add to a pass, while the lead's
denoiser is on its way down; the pass asks for it in its middle. The server passes all of it on. Where
a loan does not come back, the lead computes it: nothing hangs on the helper.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil

from torch import Tensor

from backend.components import Weights
from backend.models.additions import UNALTERED
from backend.models.control_layout import ControlInputs
from backend.references import Model
from backend.types import DeviceId, OpKey, Part
from backend.values import frozen
from backend.worker.batch import ModelCall


@frozen(eq=False)
class LentControl:
    """A control model's part in a call, whose network the other device looks up. Fields as of Control."""

    weights: Weights
    hint: Tensor
    strength: float
    average: bool
    tokens: Tensor | None
    kind: int | None


@frozen(eq=False)
class Loan:
    """One model call for another device, which looks the network up by itself. Tensors as in ModelCall."""

    model: Model
    x: Tensor
    timesteps: Tensor
    tokens: Tensor
    extra: Mapping[str, Tensor]
    controls: tuple[LentControl, ...] = ()


@frozen(eq=False)
class ControlLoan:
    """A control model's rows for another device, which looks the network up by itself."""

    weights: Weights
    given: ControlInputs


@dataclass(slots=True, eq=False)
class Outstanding:
    """A run's pending round: its calls, the outputs that are there, and the loans that are not back.

    missing: number of a loan -> the call's place.
    """

    calls: Sequence[ModelCall]
    outputs: dict[int, Tensor] = field(default_factory=dict)
    missing: dict[int, int] = field(default_factory=dict)


class Lending:
    """Which runs are split with whom, and what is out on loan."""

    def __init__(self) -> None:
        self._helpers: dict[OpKey, list[DeviceId]] = {}
        self._aside: dict[OpKey, DeviceId] = {}  # who computes a run's control models
        self._rounds: dict[OpKey, Outstanding] = {}
        self._owners: dict[int, tuple[OpKey, DeviceId]] = {}  # whose a loan is, and who computes it
        self._next = 0

    def __len__(self) -> int:
        """Runs that wait for an answer."""
        return len(self._rounds)

    def __contains__(self, key: OpKey) -> bool:
        """Whether the run waits for an answer."""
        return key in self._rounds

    def split(self, key: OpKey, helper: DeviceId, part: Part) -> None:
        """Share a run's calls with `helper` too, or have it compute its control models, from the next round
        on.
        """
        if part == "controls":
            self._aside[key] = helper
        else:
            self._helpers.setdefault(key, []).append(helper)

    def aside(self, key: OpKey) -> DeviceId | None:
        """Who computes a run's control models; None: its own device."""
        return self._aside.get(key)

    def number(self) -> int:
        """Of a loan that the run's pass waits for by itself."""
        self._next += 1
        return self._next

    def unsplit(self, key: OpKey, helper: DeviceId) -> list[int]:
        """Do without a helper. Returns: the loans that it has not brought back."""
        if self._aside.get(key) == helper:
            del self._aside[key]
        left = [other for other in self._helpers.get(key, ()) if other != helper]
        if left:
            self._helpers[key] = left
        else:
            self._helpers.pop(key, None)
        return [number for number, owner in self._owners.items() if owner == (key, helper)]

    def forget(self, key: OpKey) -> None:
        """The run has ended, or waits no more: what comes back of it is dropped."""
        self._helpers.pop(key, None)
        self._aside.pop(key, None)
        self.recall(key)

    def recall(self, key: OpKey) -> None:
        """The pending round is given up, to be asked for anew."""
        given_up = self._rounds.pop(key, None)
        for number in given_up.missing if given_up is not None else ():
            del self._owners[number]

    def lend(self, key: OpKey, calls: Sequence[ModelCall]) -> list[tuple[int, DeviceId, int]]:
        """What of a round goes to the run's helpers: (number of the loan, helper, the call's place) each.

        The calls are dealt out evenly, the first ones stay. None goes where the run has no helper, or a call
        can't be computed elsewhere.
        """
        helpers = self._helpers.get(key, ())
        share = ceil(len(calls) / (len(helpers) + 1))
        lent: list[tuple[int, DeviceId, int]] = []
        for place, call in enumerate(calls):
            if place >= share and lendable(call):
                number, helper = self.number(), helpers[place // share - 1]
                lent.append((number, helper, place))
                self._owners[number] = key, helper
        if lent:
            self._rounds[key] = Outstanding(calls, missing={number: place for number, _, place in lent})
        return lent

    def kept(self, key: OpKey, outputs: Mapping[int, Tensor]) -> None:
        """The outputs of the calls that stayed, by place."""
        if key in self._rounds:
            self._rounds[key].outputs.update(outputs)

    def owner(self, number: int) -> tuple[OpKey, ModelCall] | None:
        """Whose call a loan is; None where nobody waits for it any more."""
        if number not in self._owners:
            return None
        key, _ = self._owners[number]
        round = self._rounds[key]
        return key, round.calls[round.missing[number]]

    def returned(self, number: int, output: Tensor) -> tuple[OpKey, list[Tensor]] | None:
        """An outstanding loan is there. Returns: the run and its round's outputs, if none is missing."""
        key, _ = self._owners.pop(number)
        round = self._rounds[key]
        round.outputs[round.missing.pop(number)] = output
        if round.missing:
            return None
        del self._rounds[key]
        return key, [round.outputs[place] for place in range(len(round.calls))]


def lendable(call: ModelCall) -> bool:
    """Whether another device can compute the call: no LoRAs of its own, no altered blocks."""
    plain = call.alteration == UNALTERED and call.alteration.watcher is None
    return plain and not call.hooked


def loan_of(call: ModelCall, model: Model) -> Loan:
    """The call without its network, on the CPU."""
    extra = {name: value.cpu() for name, value in call.extra.items()}
    controls = tuple(
        LentControl(
            control.network.weights,
            control.hint.cpu(),
            control.strength,
            control.average,
            None if control.tokens is None else control.tokens.cpu(),
            control.kind,
        )
        for control in call.controls
    )
    plain = replace(model, patches=())
    return Loan(plain, call.x.cpu(), call.timesteps.cpu(), call.tokens.cpu(), extra, controls)


def control_loan_of(weights: Weights, given: ControlInputs) -> ControlLoan:
    """A control model's rows, on the CPU."""
    extra = {name: value.cpu() for name, value in given.extra.items()}
    tensors = (given.x.cpu(), given.hint.cpu(), given.timesteps.cpu(), given.tokens.cpu())
    return ControlLoan(weights, ControlInputs(*tensors, extra, given.kind))
