"""One running Denoise op: its sampler, and what each of the sampler's requests asks of the model.

The sampler asks for a latent to be denoised; the guider makes that model calls, one per condition, and
combines their outputs. Calls are run by the step loop, together with those of other ops.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from backend.errors import UnsupportedOption
from backend.models.latent import LatentFormat
from backend.models.lora import Patch
from backend.sampling.guidance import cfg, needs_uncond, stacked
from backend.sampling.prediction import Prediction
from backend.sampling.request import DenoiseRequest
from backend.sampling.run import Outcome, Run, from_model_space
from backend.types import Cond, Latent, OpKey
from backend.worker.batch import ModelCall, Network

HONOURED: frozenset[str] = frozenset()  # the options of a condition that `calls` acts on


@dataclass(frozen=True, slots=True, eq=False)
class Steering:
    """A guider's conditions. negative None: there is none, whatever cfg is."""

    positive: tuple[Cond, ...]
    negative: tuple[Cond, ...] | None = None
    cfg: float = 1.0

    def __post_init__(self) -> None:
        if not self.positive:
            raise UnsupportedOption("positive", (), "Connect a conditioning with at least one entry.")
        for cond in (*self.positive, *(self.negative or ())):
            for name in sorted(set(cond.options) - HONOURED):
                raise UnsupportedOption(
                    f"conditioning option {name}", cond.options[name], "Leave its node out."
                )


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """The model that a run steers: the loaded network and what its outputs mean."""

    network: Network
    prediction: Prediction
    format: LatentFormat
    device: torch.device
    patches: tuple[Patch, ...] = ()


class Denoising:
    """A run in progress. `calls`, then `answer` with their outputs, until `result` is there.

    finish: the run's outcome, in model units -> the op's outputs. total: the steps that progress counts.
    """

    def __init__(
        self,
        key: OpKey,
        run: Run,
        target: Target,
        steering: Steering,
        total: int,
        finish: Callable[[Outcome], tuple[Latent, Latent]],
    ) -> None:
        self.key, self.total, self.format = key, total, target.format
        self.estimate: Tensor | None = None  # of the last reported step, model units
        self.result: tuple[Latent, Latent] | None = None
        self._run, self._target, self._steering, self._finish = run, target, steering, finish
        self._request: DenoiseRequest | None = None
        self._advance(None)

    def calls(self) -> list[ModelCall]:
        """What the pending request needs of the model: the positive conditions, then the negative ones."""
        request = self._pending()
        prediction, target = self._target.prediction, self._target
        x = prediction.scale_input(request.x, request.sigma)
        time = prediction.timestep(request.sigma).reshape(1).to(target.device, torch.float32)
        rows = len(x)
        return [
            ModelCall(
                op=self.key,
                network=target.network,
                x=x,
                timesteps=time.expand(rows),
                tokens=rows_of(cond.tokens, rows).to(target.device),
                patches=target.patches,
            )
            for cond in (*self._steering.positive, *self._negative(request))
        ]

    def answer(self, outputs: Sequence[Tensor]) -> int | None:
        """Hand the raw outputs of `calls` to the sampler.

        Returns: the step that is thereby done, if one is.
        """
        request = self._pending()
        estimates = [self._target.prediction.denoised(request.x, out, request.sigma) for out in outputs]
        count = len(self._steering.positive)
        positive = torch.stack(estimates[:count]).mean(0) if count > 1 else estimates[0]
        negative = torch.stack(estimates[count:]).mean(0) if len(estimates) > count else None
        guided = positive if negative is None else cfg(positive, negative, self._steering.cfg)
        reply = stacked(guided, negative) if request.uncond else guided
        if request.step is not None:
            self.estimate = guided
        self._advance(reply)
        return request.step

    def close(self) -> None:
        """Give the run up."""
        self._run.close()

    def _negative(self, request: DenoiseRequest) -> tuple[Cond, ...]:
        """The negative conditions that count: none at cfg 1, unless the sampler wants them all the same."""
        counts = needs_uncond(self._steering.cfg, request.uncond)
        return self._steering.negative or () if counts else ()

    def _pending(self) -> DenoiseRequest:
        if self._request is None:
            raise RuntimeError(f"op {self.key} has ended and asks for nothing")
        return self._request

    def _advance(self, reply: Tensor | None) -> None:
        try:
            self._request = next(self._run) if reply is None else self._run.send(reply)
        except StopIteration as end:
            self._request = None
            self.result = self._finish(end.value)


def rows_of(value: Tensor, rows: int) -> Tensor:
    """[B, ...] -> [rows, ...]: repeated, or cut, as ComfyUI fits a condition to a batch."""
    if len(value) == rows:
        return value
    return value.repeat(-(-rows // len(value)), *[1] * (value.ndim - 1))[:rows]


def finisher(latent: Latent, format: LatentFormat) -> Callable[[Outcome], tuple[Latent, Latent]]:
    """The end of a run over `latent`: its samples and last estimate, in LATENT's units on the CPU."""

    def finish(outcome: Outcome) -> tuple[Latent, Latent]:
        ends = (outcome.samples, outcome.samples if outcome.denoised is None else outcome.denoised)
        samples, denoised = (
            replace(latent, samples=from_model_space(x.float(), format.scale, format.shift).cpu())
            for x in ends
        )
        return samples, denoised

    return finish
