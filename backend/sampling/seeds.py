"""Samplers of the reverse-time SDE that draw fresh noise: er_sde, seeds_2, seeds_3. Notation as in sde.py."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from backend.errors import UnsupportedOption
from backend.sampling.noise import NoiseSource, ancestral_noise
from backend.sampling.request import DenoiseRequest, RunFacts, Sampler, steps
from backend.sampling.sde import finite_start, log_snr, sigma_of

Scaler: TypeAlias = Callable[[Tensor], Tensor]
POINTS = 200  # of the rectangle rule for er_sde's integrals


def er_sde(
    x: Tensor,
    sigmas: Tensor,
    facts: RunFacts,
    *,
    s_noise: float = 1.0,
    max_stage: int = 3,
    solver_type: str = "ER-SDE",
    eta: float = 1.0,
) -> Sampler:
    """Extended reverse-time SDE solver: arXiv:2309.06169.

    solver_type: ER-SDE, Reverse-time SDE (eta: its strength) or ODE; max_stage 1..3: the order.
    """
    if max_stage not in (1, 2, 3):
        raise UnsupportedOption("max_stage", max_stage, "Use 1, 2 or 3.")
    scale, s_noise = _scaler(solver_type, eta, s_noise)
    noise = ancestral_noise(x, facts.seed)
    sigmas = finite_start(sigmas, facts.prediction)
    levels = log_snr(sigmas, facts.prediction).neg().exp()  # sigma / alpha
    past: list[Tensor] = []  # the last estimate and its derivative
    for step, sigma, sigma_next in steps(sigmas):
        denoised = yield DenoiseRequest(x, sigma, step)
        if sigma_next == 0:
            x = denoised
        else:
            level, level_next = levels[step], levels[step + 1]
            alpha, alpha_next = sigma / level, sigma_next / level_next
            r = scale(level_next) / scale(level)
            x = alpha_next / alpha * r * x + alpha_next * (1 - r) * denoised
            derivatives = _derivatives(
                denoised, past, levels[max(step - 2, 0) : step + 1], min(max_stage, step + 1)
            )
            for order, derivative in enumerate(derivatives, start=1):
                x = x + alpha_next * _stage(order, level, level_next, scale) * derivative
            if s_noise > 0:
                spread = (level_next**2 - level**2 * r**2).sqrt().nan_to_num(nan=0.0)
                x = x + alpha_next * noise(sigma, sigma_next) * s_noise * spread
            past = [denoised, *derivatives[:1]]
    return x


def _scaler(solver_type: str, eta: float, s_noise: float) -> tuple[Scaler, float]:
    """The noise scaling function of a solver type, and the strength of noise left by it."""
    if solver_type == "ER-SDE":
        return lambda level: level * ((level**0.3).exp() + 10.0), s_noise
    if solver_type not in ("Reverse-time SDE", "ODE"):
        raise UnsupportedOption("solver_type", solver_type, "Use ER-SDE, Reverse-time SDE or ODE.")
    if solver_type == "ODE" or eta == 0:
        return lambda level: level, 0.0
    return lambda level: level ** (eta + 1), s_noise


def _derivatives(denoised: Tensor, past: list[Tensor], levels: Tensor, stages: int) -> list[Tensor]:
    """First and second derivative of the estimate by the noise level, as many as the stages use."""
    if stages < 2:
        return []
    first = (denoised - past[0]) / (levels[-1] - levels[-2])
    if stages < 3:
        return [first]
    return [first, (first - past[1]) / ((levels[-1] - levels[-3]) / 2)]


def _stage(order: int, level: Tensor, level_next: Tensor, scale: Scaler) -> Tensor:
    """The weight of the estimate's derivative of that order in one step."""
    dt = level_next - level
    width = -dt / POINTS
    at = level_next + torch.arange(POINTS, dtype=torch.float32) * width
    moment = 1 / scale(at) if order == 1 else (at - level) / scale(at)
    return dt**order / order + moment.sum() * width * scale(level_next)


def seeds_2(
    x: Tensor, sigmas: Tensor, facts: RunFacts, *, eta: float = 1.0, s_noise: float = 1.0, r: float = 0.5
) -> Sampler:
    """Stochastic exponential solver of two stages: arXiv:2305.14267. r: place of the second, by log-SNR."""
    walk = _Walk(x, facts, eta, s_noise)
    for step, sigma, sigma_next in steps(finite_start(sigmas, facts.prediction)):
        first = yield DenoiseRequest(x, sigma, step)
        if sigma_next == 0:
            x = first
            continue
        middle = walk.between(sigma, sigma_next, r)
        walk.start(sigma, sigma_next)
        halfway = walk.advance(x, middle, walk.phi_1(r) * first, r)
        second = yield DenoiseRequest(halfway, middle)
        x = walk.advance(x, sigma_next, walk.phi_1(1.0) * first.lerp(second, 1 / (2 * r)), 1.0)
    return x


def seeds_3(
    x: Tensor,
    sigmas: Tensor,
    facts: RunFacts,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    r_1: float = 1 / 3,
    r_2: float = 2 / 3,
) -> Sampler:
    """Stochastic exponential solver of three stages: arXiv:2305.14267. r_1, r_2: places of the inner ones."""
    walk = _Walk(x, facts, eta, s_noise)
    for step, sigma, sigma_next in steps(finite_start(sigmas, facts.prediction)):
        first = yield DenoiseRequest(x, sigma, step)
        if sigma_next == 0:
            x = first
            continue
        near, far = walk.between(sigma, sigma_next, r_1), walk.between(sigma, sigma_next, r_2)
        walk.start(sigma, sigma_next)
        place = walk.advance(x, near, walk.phi_1(r_1) * first, r_1)
        second = yield DenoiseRequest(place, near)
        weight = r_2 / r_1 * walk.phi_2(r_2)
        place = walk.advance(x, far, (walk.phi_1(r_2) - weight) * first + weight * second, r_2)
        third = yield DenoiseRequest(place, far)
        weight = walk.phi_2(1.0) / r_2
        x = walk.advance(x, sigma_next, (walk.phi_1(1.0) - weight) * first + weight * third, 1.0)
    return x


class _Walk:
    """The stages of one step at a time. They share one path of noise: each adds the stretch since the
    last.
    """

    def __init__(self, x: Tensor, facts: RunFacts, eta: float, s_noise: float) -> None:
        self._prediction, self._eta, self._s_noise = facts.prediction, eta, s_noise
        self._source: NoiseSource = ancestral_noise(x, facts.seed)
        self._sigma = self._h = torch.zeros(())
        self._noise: Tensor | None = None
        self._at, self._at_sigma = 0.0, self._sigma

    def between(self, sigma: Tensor, sigma_next: Tensor, r: float) -> Tensor:
        """The sigma at share r of the way, by log-SNR."""
        start, end = log_snr(sigma, self._prediction), log_snr(sigma_next, self._prediction)
        return sigma_of(torch.lerp(start, end, r), self._prediction)

    def start(self, sigma: Tensor, sigma_next: Tensor) -> None:
        self._sigma = self._at_sigma = sigma
        self._h = log_snr(sigma_next, self._prediction) - log_snr(sigma, self._prediction)
        self._at, self._noise = 0.0, None

    def phi_1(self, r: float) -> Tensor:
        """z * phi_1(z) of exponential integrators at z = -(1 + eta) * h * r."""
        return torch.expm1(-r * self._h * (self._eta + 1))

    def phi_2(self, r: float) -> Tensor:
        """z * phi_2(z), as above."""
        z = -r * self._h * (self._eta + 1)
        return (torch.expm1(z) - z) / z

    def advance(self, x: Tensor, sigma: Tensor, estimate: Tensor, r: float) -> Tensor:
        """x at the step's start -> x at `sigma`, share r of the way; estimate: weighted, as phi gives it."""
        decay = (-r * self._h * self._eta).exp()
        alpha = sigma * log_snr(sigma, self._prediction).exp()
        x = sigma / self._sigma * decay * x - alpha * estimate
        if self._eta <= 0 or self._s_noise <= 0:
            return x
        stretch = (self._at - r) * self._h * self._eta
        fresh = stretch.mul(2).expm1().neg().sqrt() * self._source(self._at_sigma, sigma)
        self._noise = fresh if self._noise is None else self._noise * stretch.exp() + fresh
        self._at, self._at_sigma = r, sigma
        return x + self._noise * sigma * self._s_noise
