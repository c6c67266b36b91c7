"""Samplers that remember earlier steps, without fresh noise: dpmpp_2m, lms, ipndm, deis, gradient_estimation.

Every step costs one evaluation; the first ones are of lower order.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from backend.errors import UnsupportedOption
from backend.sampling.request import DenoiseRequest, RunFacts, Sampler, slope, steps

# Adams-Bashforth weights by order, the newest slope first, over their common denominator.
ADAMS_BASHFORTH = {1: ((1,), 1), 2: ((3, -1), 2), 3: ((23, -16, 5), 12), 4: ((55, -59, 37, -9), 24)}
DEIS_POINTS = 10000  # of the rectangle rule for its integrals
DEIS_END, DEIS_SIGMAS = 1e-3, (0.002, 80.0)  # the VP process that its time is taken from


def dpmpp_2m(x: Tensor, sigmas: Tensor, facts: RunFacts) -> Sampler:
    """DPM-Solver++(2M): arXiv:2211.01095, Alg. 2."""
    previous: Tensor | None = None
    for step, sigma, sigma_next in steps(sigmas):
        denoised = yield DenoiseRequest(x, sigma, step)
        h = sigma.log() - sigma_next.log()
        target = denoised
        if previous is not None and sigma_next != 0:
            r = (sigmas[step - 1].log() - sigma.log()) / h
            target = (1 + 1 / (2 * r)) * denoised - (1 / (2 * r)) * previous
        x = (sigma_next / sigma) * x - (-h).expm1() * target
        previous = denoised
    return x


def lms(x: Tensor, sigmas: Tensor, facts: RunFacts, *, order: int = 4) -> Sampler:
    """Linear multistep: the slope's interpolating polynomial is integrated over the step."""
    if order < 1:
        raise UnsupportedOption("order", order, "Use 1 or more.")
    slopes: list[Tensor] = []  # newest first
    places = [float(s) for s in sigmas]
    for step, sigma, sigma_next in steps(sigmas):
        denoised = yield DenoiseRequest(x, sigma, step)
        slopes = [slope(x, sigma, denoised), *slopes][:order]
        if sigma_next == 0:
            x = denoised
            continue
        nodes = [places[step - k] for k in range(len(slopes))]
        weights = [lagrange_integral(nodes, j, places[step], places[step + 1]) for j in range(len(nodes))]
        x = x + sum((w * s for w, s in zip(weights, slopes, strict=True)), torch.zeros_like(x))
    return x


def lagrange_integral(nodes: Sequence[float], j: int, start: float, end: float) -> float:
    """The integral from start to end of the polynomial that is 1 at nodes[j] and 0 at the other nodes."""
    others = [n - start for k, n in enumerate(nodes) if k != j]  # from `start`, for accuracy
    coefficients = [1.0]  # ascending powers
    for other in others:
        raised, kept = [0.0, *coefficients], [*(-other * c for c in coefficients), 0.0]
        coefficients = [a + b for a, b in zip(raised, kept, strict=True)]
    scale = math.prod(nodes[j] - start - other for other in others)
    return math.fsum(c * (end - start) ** (p + 1) / (p + 1) for p, c in enumerate(coefficients)) / scale


def ipndm(x: Tensor, sigmas: Tensor, facts: RunFacts, *, max_order: int = 4) -> Sampler:
    """Adams-Bashforth on the slopes as if all steps were equally long: arXiv:2204.13902's iPNDM."""
    _check_order(max_order)
    slopes: list[Tensor] = []  # newest first
    for step, sigma, sigma_next in steps(sigmas):
        denoised = yield DenoiseRequest(x, sigma, step)
        slopes = [slope(x, sigma, denoised), *slopes][:max_order]
        if sigma_next == 0:
            x = denoised
            continue
        weights, denominator = ADAMS_BASHFORTH[len(slopes)]
        x = x + (sigma_next - sigma) * _weighted(weights, slopes) / denominator
    return x


def ipndm_v(x: Tensor, sigmas: Tensor, facts: RunFacts, *, max_order: int = 4) -> Sampler:
    """ipndm with weights that know how long each step was."""
    _check_order(max_order)
    slopes: list[Tensor] = []  # newest first
    for step, sigma, sigma_next in steps(sigmas):
        denoised = yield DenoiseRequest(x, sigma, step)
        slopes = [slope(x, sigma, denoised), *slopes][:max_order]
        if sigma_next == 0:
            x = denoised
            continue
        lengths = [sigmas[step + 1 - k] - sigmas[step - k] for k in range(len(slopes))]
        x = x + (sigma_next - sigma) * _weighted(variable_weights(lengths), slopes)
    return x


def variable_weights(lengths: Sequence[Tensor]) -> list[Tensor]:
    """Weights of the newest slopes, newest first.

    lengths: of as many steps (1..4), the coming one first. Each order adds a divided difference of the slopes
    to the order below it. Kept as published, for equal images: order 3 is exact for equal steps alone, order
    4 not even there.
    """
    h = lengths[0]
    one = torch.ones_like(h)
    if len(lengths) == 1:
        return [one]
    a = lengths[1]
    ratio = h / a
    weights = [(2 + ratio) / 2, -ratio / 2]
    if len(lengths) == 2:
        return weights
    b = lengths[2]
    third = (1 - h / (3 * (h + a)) * (h * (h + a)) / (a * (a + b))) / 2
    weights = _added([*weights, 0 * one], third, [one, -(1 + a / b), a / b])
    if len(lengths) == 3:
        return weights
    c = lengths[3]
    span = (h * (h + a) * (h + a + b)) / (a * (a + b) * (a + b + c))
    fourth = ((1 - h / (3 * (h + a))) / 2 + (1 - h / (2 * (h + a))) * h / (6 * (h + a + b))) * span
    outer = a * (a + b) / (b * (b + c))
    differences = [one, -(1 + a / b + outer), a / b + outer * (1 + b / c), -outer * a / b]
    return _added([*weights, 0 * one], fourth, differences)


def deis(x: Tensor, sigmas: Tensor, facts: RunFacts, *, max_order: int = 3) -> Sampler:
    """Exponential integrator with a polynomial through past slopes, in VP time: arXiv:2204.13902,
    tAB-DEIS.
    """
    _check_order(max_order)
    slopes: list[Tensor] = []  # newest first
    times, betas = vp_times(sigmas)
    for step, sigma, sigma_next in steps(sigmas):
        denoised = yield DenoiseRequest(x, sigma, step)
        slopes = [slope(x, sigma, denoised), *slopes][:max_order]
        if len(slopes) == 1 or sigma_next <= 0:
            x = x + (sigma_next - sigma) * slopes[0]
            continue
        nodes = [times[step - k] for k in range(len(slopes))]
        x = x + _weighted(deis_weights(nodes, times[step + 1], betas), slopes)
    return x


def vp_times(sigmas: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Each sigma's time in the VP process that spans DEIS_SIGMAS, and that process's first and last beta."""
    low, high = ((torch.tensor(s) ** 2 + 1).log() for s in DEIS_SIGMAS)
    rise = 2 * (low / DEIS_END - high) / (DEIS_END - 1)
    first = high - 0.5 * rise
    times = ((first**2 + 2 * rise * (sigmas**2 + 1).log()).sqrt() - first) / rise
    return times, (first, rise + first)


def deis_weights(nodes: Sequence[Tensor], end: Tensor, betas: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Weights of the slopes at times `nodes` (newest first) for the step from nodes[0] to `end`."""
    first, last = betas
    tau = torch.linspace(float(nodes[0]), float(end), DEIS_POINTS)
    signal = torch.exp(-0.5 * tau**2 * (last - first) - tau * first)
    density = 0.5 * (tau * (last - first) + first) / torch.sqrt(signal * (1 - signal))
    width = (end - nodes[0]) / DEIS_POINTS
    weights = []
    for j, node in enumerate(nodes):
        basis = torch.ones_like(tau)
        for other in (n for k, n in enumerate(nodes) if k != j):
            basis = basis * ((tau - other) / (node - other))
        weights.append((density * basis).sum() * width)
    return weights


def gradient_estimation(x: Tensor, sigmas: Tensor, facts: RunFacts, *, ge_gamma: float = 2.0) -> Sampler:
    """Euler steps that overshoot by the change of the slope: arXiv:2306.04848, Alg. 2. ge_gamma 1 is
    euler.
    """
    previous: Tensor | None = None
    for step, sigma, sigma_next in steps(sigmas):
        denoised = yield DenoiseRequest(x, sigma, step)
        here = slope(x, sigma, denoised)
        if sigma_next == 0:
            x = denoised
        else:
            change = here - previous if previous is not None else torch.zeros_like(here)
            x = x + here * (sigma_next - sigma) + (ge_gamma - 1) * change * (sigma_next - sigma)
        previous = here
    return x


def _check_order(order: int) -> None:
    if order not in ADAMS_BASHFORTH:
        raise UnsupportedOption("max_order", order, "Use 1, 2, 3 or 4.")


def _weighted(weights: Sequence[Tensor | int], slopes: Sequence[Tensor]) -> Tensor:
    return sum((w * s for w, s in zip(weights, slopes, strict=True)), torch.zeros_like(slopes[0]))


def _added(weights: Sequence[Tensor], amount: Tensor, differences: Sequence[Tensor]) -> list[Tensor]:
    return [w + amount * d for w, d in zip(weights, differences, strict=True)]
