"""Evaluations that a run leaves out: EasyCache for the network's calls, LazyCache for whole requests.

Both are told of each evaluation of their own run only, so a run ends as it does alone whoever shares its
passes. sigmas: between those of the cache's two percents it may reuse; up to the second it learns.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from backend.patches import EasyCache, LazyCache, ModelPatch
from backend.sampling.discretization import NoiseRange
from backend.sampling.request import DenoiseRequest
from backend.sampling.reuse import Drift
from backend.sampling.steer import Guided
from backend.worker.batch import ModelCall, layout
from backend.worker.conditions import Condition


@dataclass(slots=True, eq=False)
class CallReuse:
    """EasyCache of one run. leading: the condition that decides; shape: of the inputs that are known."""

    drift: Drift
    begins: float
    ends: float
    leading: Condition | None = None
    shape: tuple[int, ...] | None = None
    differences: dict[Condition, Tensor] = field(default_factory=dict)
    _follows: bool = False

    def outputs(
        self, sigma: float, conditions: Sequence[Condition], calls: Sequence[ModelCall]
    ) -> list[Tensor] | None:
        """Outputs of the main calls of a round, where they need not be made; None where they must."""
        self._follows = False
        if not calls or not self.ends < sigma <= self.begins:
            return None
        group = _together(calls)
        if self.shape is not None and calls[group[0]].x.shape[1:] != self.shape:
            self.drift.forget()
            self.leading = None
            self.differences.clear()
        self.shape = tuple(calls[group[0]].x.shape[1:])
        if self.leading is None:
            self.leading = conditions[group[-1]]
        if self.leading not in conditions:
            return None
        self._follows = self.drift.input is not None
        x = calls[list(conditions).index(self.leading)].x
        known = all(condition in self.differences for condition in conditions)
        if not self.drift.reuses(x) or not known:
            return None
        return [self._reused(i, conditions, calls) for i in range(len(calls))]

    def _reused(self, at: int, conditions: Sequence[Condition], calls: Sequence[ModelCall]) -> Tensor:
        """The call's input with the difference of its last output.

        Where a latent has one row, ComfyUI 0.3.64 adds the differences of all calls of a pass to each of them
        (and fails where it has more); kept for equal images.
        """
        x = calls[at].x
        added = _together(calls, at) if len(x) == 1 else [at]
        for i in reversed(added):
            x = x + self.differences[conditions[i]]
        return x

    def learn(
        self,
        sigma: float,
        conditions: Sequence[Condition],
        calls: Sequence[ModelCall],
        outputs: Sequence[Tensor],
        beside: bool = False,
    ) -> None:
        """Take in calls of a round that were made, and their outputs. beside: they are not the main ones."""
        if not sigma > self.ends:
            return
        for condition, call, output in zip(conditions, calls, outputs, strict=True):
            self.differences[condition] = output - call.x
        if not beside and self.leading is not None and self.leading in conditions:
            at = list(conditions).index(self.leading)
            together = torch.cat([outputs[i] for i in _together(calls, at)])
            self.drift.learn(calls[at].x, outputs[at], together, self._follows)


@dataclass(slots=True, eq=False)
class ResultReuse:
    """LazyCache of one run."""

    drift: Drift
    begins: float
    ends: float
    shape: torch.Size | None = None
    difference: Tensor | None = None
    uncond: Tensor | None = None
    _follows: bool = False

    def answer(self, request: DenoiseRequest) -> Guided | None:
        """The answer to a request that need not be evaluated; None where it must."""
        self._follows = False
        if not self.ends < float(request.sigma) <= self.begins:
            return None
        if self.shape is not None and self.shape != request.x.shape:
            self.drift.forget()
            self.difference = None
        self.shape = request.x.shape
        self._follows = self.drift.input is not None
        if not self.drift.reuses(request.x) or self.difference is None or self.uncond is None:
            return None
        return Guided(request.x + self.difference, self.uncond)

    def learn(self, request: DenoiseRequest, guided: Guided) -> None:
        """Take in an evaluated request."""
        if float(request.sigma) > self.ends:
            self.difference, self.uncond = guided.denoised - request.x, guided.uncond
            self.drift.learn(request.x, guided.denoised, guided.denoised, self._follows)


def call_reuse(patches: Sequence[ModelPatch], noise: NoiseRange) -> CallReuse | None:
    """By the last EasyCache of a model, None without one."""
    last = next((patch for patch in reversed(patches) if isinstance(patch, EasyCache)), None)
    if last is None:
        return None
    begins, ends = noise.percent_to_sigma(last.start), noise.percent_to_sigma(last.end)
    return CallReuse(Drift(last.threshold), begins, ends)


def result_reuse(patches: Sequence[ModelPatch], noise: NoiseRange) -> ResultReuse | None:
    """By the last LazyCache of a model, None without one."""
    last = next((patch for patch in reversed(patches) if isinstance(patch, LazyCache)), None)
    if last is None:
        return None
    begins, ends = noise.percent_to_sigma(last.start), noise.percent_to_sigma(last.end)
    return ResultReuse(Drift(last.threshold), begins, ends)


def _together(calls: Sequence[ModelCall], at: int = 0) -> list[int]:
    """Those that ComfyUI would run in one pass with the one at `at`, and itself."""
    return [i for i, call in enumerate(calls) if layout(call) == layout(calls[at])]
