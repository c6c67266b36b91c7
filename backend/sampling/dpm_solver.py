"""DPM-Solver with its own choice of steps: dpm_fast and dpm_adaptive, arXiv:2206.00927.

Times are t = -log sigma. The schedule gives only the ends and, for dpm_fast, the number of evaluations.
"""

import math
from collections.abc import Generator
from dataclasses import replace

import torch
from torch import Tensor

from backend.errors import UnsupportedOption
from backend.sampling.ancestral import ancestral_step
from backend.sampling.noise import ancestral_noise
from backend.sampling.request import DenoiseRequest, RunFacts, Sampler
from backend.values import frozen

THIRD = 1 / 3
END = 1e-5  # time left that counts as none


def dpm_fast(x: Tensor, sigmas: Tensor, facts: RunFacts) -> Sampler:
    """Third-order steps, evenly spaced in time, that cost as many evaluations as the schedule has steps."""
    if len(sigmas) < 2:
        return x
    start, end = _ends(sigmas)
    evaluations = len(sigmas) - 1
    count = evaluations // 3 + 1
    orders = [3] * (count - 2) + [2, 1] if evaluations % 3 == 0 else [3] * (count - 1) + [evaluations % 3]
    times = torch.linspace(float(start), float(end), count + 1)
    for step, order in enumerate(orders):
        t, t_next = times[step], times[step + 1]
        eps = _eps(x, t, (yield DenoiseRequest(x, _sigma(t), step)))
        if order == 1:
            x = _first(x, t, t_next, eps)
        elif order == 2:
            x = _second(x, (t, t_next), 0.5, eps, (yield from _probe(x, (t, t_next), 0.5, eps)))
        else:
            inner = yield from _probe(x, (t, t_next), THIRD, eps)
            x = yield from _third(x, (t, t_next), eps, inner)
    return x


@frozen
class Pace:
    """A PID controller of step length. h: the length to try; errors: inverse errors of the last steps."""

    h: float
    gains: tuple[float, float, float]
    safety: float
    errors: tuple[float, float, float] | None = None

    def after(self, error: float) -> tuple["Pace", bool]:
        """The pace after a step of that error, and whether the step stands."""
        inverse = 1 / (error + 1e-8)
        _, second, third = self.errors or (inverse, inverse, inverse)
        factor = math.prod(e**g for e, g in zip((inverse, second, third), self.gains, strict=True))
        factor = 1 + math.atan(factor - 1)
        stands = factor >= self.safety
        errors = (inverse, inverse, second) if stands else (inverse, second, third)
        return replace(self, h=self.h * factor, errors=errors), stands


def dpm_adaptive(
    x: Tensor,
    sigmas: Tensor,
    facts: RunFacts,
    *,
    order: int = 3,
    rtol: float = 0.05,
    atol: float = 0.0078,
    h_init: float = 0.05,
    pcoeff: float = 0.0,
    icoeff: float = 1.0,
    dcoeff: float = 0.0,
    accept_safety: float = 0.81,
    eta: float = 0.0,
    s_noise: float = 1.0,
) -> Sampler:
    """Steps as long as the difference of two orders (`order` and the one below) allows.

    The error is taken over the whole batch, so its rows share their steps. A step is tried again, shorter,
    where it failed; each try counts as a step.
    """
    if order not in (2, 3):
        raise UnsupportedOption("order", order, "Use 2 or 3.")
    if len(sigmas) < 2:
        return x
    at, end = _ends(sigmas)
    if eta and end <= at:
        raise UnsupportedOption(
            "eta", eta, "Use 0 where sigmas rise; noise can only be added while they fall."
        )
    noise = ancestral_noise(x, facts.seed)
    pace = _first_pace(
        abs(h_init) if end > at else -abs(h_init), (pcoeff, icoeff, dcoeff), accept_safety, order, eta
    )
    low, step = x, 0
    while abs(end - at) > END:
        target = _within(at + pace.h, end, pace.h)
        landing, up = _landing(at, target, end, eta)
        eps = _eps(x, at, (yield DenoiseRequest(x, _sigma(at), step)))
        rough, fine = yield from _pair(x, (at, landing), order, eps)
        allowed = (rtol * torch.maximum(rough.abs(), low.abs())).clamp(min=atol)
        error = torch.linalg.norm((rough - fine) / allowed) / x.numel() ** 0.5
        before = at
        pace, stands = pace.after(float(error))
        if stands:
            low, at = rough, target
            x = fine + up * s_noise * noise(_sigma(before), _sigma(target)) if eta else fine
        step += 1
    return x


def _first_pace(
    h: float, coefficients: tuple[float, float, float], safety: float, order: int, eta: float
) -> Pace:
    p, i, d = coefficients
    rate = 1.5 if eta else order
    return Pace(h, ((p + i + d) / rate, -(p + 2 * d) / rate, d / rate), safety)


def _within(target: Tensor, end: Tensor, h: float) -> Tensor:
    return torch.minimum(end, target) if h > 0 else torch.maximum(end, target)


def _landing(t: Tensor, target: Tensor, end: Tensor, eta: float) -> tuple[Tensor, Tensor]:
    """The time to step to, and the deviation of the noise that leads back to `target`."""
    if not eta:
        return target, torch.zeros(())
    landing = torch.minimum(end, -ancestral_step(_sigma(t), _sigma(target), eta).down.log())
    return landing, (_sigma(target) ** 2 - _sigma(landing) ** 2) ** 0.5


def _pair(
    x: Tensor, span: tuple[Tensor, Tensor], order: int, eps: Tensor
) -> Generator[DenoiseRequest, Tensor, tuple[Tensor, Tensor]]:
    """The step at `order - 1` and at `order`."""
    if order == 2:
        inner = yield from _probe(x, span, 0.5, eps)
        return _first(x, *span, eps), _second(x, span, 0.5, eps, inner)
    inner = yield from _probe(x, span, THIRD, eps)
    return _second(x, span, THIRD, eps, inner), (yield from _third(x, span, eps, inner))


def _first(x: Tensor, t: Tensor, t_next: Tensor, eps: Tensor) -> Tensor:
    return x - _sigma(t_next) * (t_next - t).expm1() * eps


def _probe(x: Tensor, span: tuple[Tensor, Tensor], r: float, eps: Tensor) -> Sampler:
    """The noise at share r of a step, reached at first order."""
    t, t_next = span
    inner = t + r * (t_next - t)
    place = _first(x, t, inner, eps)
    return _eps(place, inner, (yield DenoiseRequest(place, _sigma(inner))))


def _second(x: Tensor, span: tuple[Tensor, Tensor], r: float, eps: Tensor, inner: Tensor) -> Tensor:
    t, t_next = span
    growth = _sigma(t_next) * (t_next - t).expm1()
    return x - growth * eps - growth / (2 * r) * (inner - eps)


def _third(x: Tensor, span: tuple[Tensor, Tensor], eps: Tensor, inner: Tensor) -> Sampler:
    """inner: the noise at a third of the step; the last probe lies at two thirds."""
    t, t_next = span
    h, r = t_next - t, 2 * THIRD
    middle = t + r * h
    bend = _sigma(middle) * (r / THIRD) * ((r * h).expm1() / (r * h) - 1)
    place = _first(x, t, middle, eps) - bend * (inner - eps)
    outer = _eps(place, middle, (yield DenoiseRequest(place, _sigma(middle))))
    return _first(x, t, t_next, eps) - _sigma(t_next) / r * (h.expm1() / h - 1) * (outer - eps)


def _ends(sigmas: Tensor) -> tuple[Tensor, Tensor]:
    """First and last time of a schedule; a last sigma of 0 gives way to the one before it."""
    last = sigmas[-1] if sigmas[-1] != 0 else sigmas[-2]
    if sigmas[0] <= 0 or last <= 0:
        raise UnsupportedOption("sigmas", [float(s) for s in sigmas], "Use sigmas above 0, but for the last.")
    return -sigmas[0].log(), -last.log()


def _eps(x: Tensor, t: Tensor, denoised: Tensor) -> Tensor:
    return (x - denoised) / _sigma(t)


def _sigma(t: Tensor) -> Tensor:
    return t.neg().exp()
