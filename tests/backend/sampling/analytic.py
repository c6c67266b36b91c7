"""A denoiser with a formula, and what drives a sampler's requests through it."""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from backend.guiders import Schedule
from backend.sampling.discretization import scaled_linear, shifted_flow
from backend.sampling.noise import initial_noise
from backend.sampling.prediction import Prediction
from backend.sampling.request import DenoiseRequest
from backend.sampling.samplers import Options, make_sampler
from backend.sampling.sigmas import schedule_sigmas

T = TypeVar("T")
SEED = 7


def denoise(x: Tensor, sigma: Tensor) -> Tensor:
    """Smooth, not linear, each value by itself."""
    return x / (1 + sigma * sigma) + 0.3 * torch.tanh(x * 1.3 + 0.2) * sigma / (1 + sigma) + 0.1


def unconditional(x: Tensor, sigma: Tensor) -> Tensor:
    return x / (1 + sigma * sigma) * 0.9 - 0.2 * torch.tanh(x) * sigma / (1 + sigma)


def gaussian(x: Tensor, sigma: Tensor) -> Tensor:
    """The best denoiser of data that is unit noise itself; the ODE then keeps x / sqrt(1 + sigma^2)."""
    return x / (1 + sigma * sigma)


@dataclass
class Driven:
    """What a driven generator did: its result, every request, and the steps it reported."""

    result: object = None
    requests: list[DenoiseRequest] = field(default_factory=list)

    @property
    def steps(self) -> list[int]:
        return [r.step for r in self.requests if r.step is not None]


def drive(
    run: Generator[DenoiseRequest, Tensor, T],
    model: Callable[[Tensor, Tensor], Tensor] = denoise,
    uncond: Callable[[Tensor, Tensor], Tensor] = unconditional,
) -> Driven:
    driven = Driven()
    try:
        request = next(run)
        while True:
            driven.requests.append(request)
            reply = model(request.x, request.sigma)
            if request.uncond:
                reply = torch.stack([reply, uncond(request.x, request.sigma)])
            request = run.send(reply)
    except StopIteration as end:
        driven.result = end.value
    return driven


def a_prediction(kind: str) -> Prediction:
    return Prediction("flow", shifted_flow(3.0)) if kind == "flow" else Prediction("eps", scaled_linear())


def a_run(
    name: str,
    kind: str = "eps",
    steps: int = 6,
    *,
    options: Options = (),
    seed: int = SEED,
    **changes: object,
):
    """Drive sampler `name` over a small latent. changes: x, sigmas, scheduler, model."""
    prediction = a_prediction(kind)
    schedule = Schedule(str(changes.get("scheduler", "karras")), steps)
    sigmas = changes.get("sigmas")
    sigmas = schedule_sigmas(schedule, prediction.range, name) if sigmas is None else sigmas
    x = changes.get("x")
    if x is None:
        noise = initial_noise((1, 1, 2, 3), seed)
        x = prediction.noise_scaling(sigmas[0], noise, torch.zeros_like(noise), full=True)
    run = make_sampler(name, x, sigmas, prediction=prediction, seed=seed, options=options)
    return drive(run, changes.get("model", denoise))
