"""Samplers that use one step's own evaluations, without fresh noise: euler, heun, heunpp2, dpm_2.

All of them may churn (arXiv:2206.00364, Alg. 2): with s_churn > 0, a step whose sigma lies in s_tmin..s_tmax
first goes back up in noise. Their other arguments and their result are the run's: x [B, ...] at sigmas[0].
"""

import math

from torch import Tensor

from backend.sampling.noise import NoiseSource, churn_noise
from backend.sampling.request import DenoiseRequest, RunFacts, Sampler, slope, steps

MAX_CHURN = 2**0.5 - 1  # the largest share by which a step may raise sigma


class Churn:
    """The churn of one run: `gamma` per step, and the step up to the raised sigma."""

    def __init__(
        self, facts: RunFacts, sigmas: Tensor, amount: float, span: tuple[float, float], s_noise: float
    ) -> None:
        self._seed, self._s_noise, self._span = facts.seed, s_noise, span
        self._gamma = min(amount / max(len(sigmas) - 1, 1), MAX_CHURN)
        self._noise: NoiseSource | None = None

    def __call__(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """(x, sigma) after the churn of a step that starts there."""
        low, high = self._span
        if self._gamma <= 0 or not low <= float(sigma) <= high:
            return x, sigma
        self._noise = self._noise or churn_noise(x, self._seed)
        raised = sigma * (self._gamma + 1)
        noise = self._noise(sigma, raised) * self._s_noise
        return x + noise * (raised**2 - sigma**2) ** 0.5, raised


def euler(
    x: Tensor,
    sigmas: Tensor,
    facts: RunFacts,
    *,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> Sampler:
    """Straight steps along the denoising ODE: arXiv:2206.00364, Alg. 2 without its correction."""
    churn = Churn(facts, sigmas, s_churn, (s_tmin, s_tmax), s_noise)
    for step, sigma, sigma_next in steps(sigmas):
        x, sigma_hat = churn(x, sigma)
        denoised = yield DenoiseRequest(x, sigma_hat, step)
        x = x + slope(x, sigma_hat, denoised) * (sigma_next - sigma_hat)
    return x


def heun(
    x: Tensor,
    sigmas: Tensor,
    facts: RunFacts,
    *,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> Sampler:
    """Steps along the mean of the slopes at both ends: arXiv:2206.00364, Alg. 2."""
    churn = Churn(facts, sigmas, s_churn, (s_tmin, s_tmax), s_noise)
    for step, sigma, sigma_next in steps(sigmas):
        x, sigma_hat = churn(x, sigma)
        denoised = yield DenoiseRequest(x, sigma_hat, step)
        here = slope(x, sigma_hat, denoised)
        ahead = x + here * (sigma_next - sigma_hat)
        if sigma_next == 0:
            x = ahead
        else:
            there = slope(ahead, sigma_next, (yield DenoiseRequest(ahead, sigma_next)))
            x = x + (here + there) / 2 * (sigma_next - sigma_hat)
    return x


def heunpp2(
    x: Tensor,
    sigmas: Tensor,
    facts: RunFacts,
    *,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> Sampler:
    """Heun's step with up to three slopes, weighted by their sigmas; fewer towards the schedule's end."""
    churn = Churn(facts, sigmas, s_churn, (s_tmin, s_tmax), s_noise)
    for step, sigma, sigma_next in steps(sigmas):
        x, sigma_hat = churn(x, sigma)
        denoised = yield DenoiseRequest(x, sigma_hat, step)
        slopes, at, place = [slope(x, sigma_hat, denoised)], sigma_hat, x
        probes = sigmas[step + 1 : step + 3] if sigma_next != sigmas[-1] else sigmas[:0]
        for probe in probes[probes != sigmas[-1]]:
            place, at = place + slopes[-1] * (probe - at), probe
            slopes.append(slope(place, at, (yield DenoiseRequest(place, at))))
        weights = [probe / (len(slopes) * sigmas[0]) for probe in sigmas[step + 1 : step + len(slopes)]]
        mean = slopes[0] * (1 - sum(weights))
        for weight, other in zip(weights, slopes[1:], strict=True):
            mean = mean + weight * other
        x = x + mean * (sigma_next - sigma_hat)
    return x


def dpm_2(
    x: Tensor,
    sigmas: Tensor,
    facts: RunFacts,
    *,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> Sampler:
    """Steps along the slope at the geometric middle of two sigmas: DPM-Solver-2, arXiv:2206.00927."""
    churn = Churn(facts, sigmas, s_churn, (s_tmin, s_tmax), s_noise)
    for step, sigma, sigma_next in steps(sigmas):
        x, sigma_hat = churn(x, sigma)
        denoised = yield DenoiseRequest(x, sigma_hat, step)
        direction = slope(x, sigma_hat, denoised)
        if sigma_next != 0:
            middle = sigma_hat.log().lerp(sigma_next.log(), 0.5).exp()
            halfway = x + direction * (middle - sigma_hat)
            direction = slope(halfway, middle, (yield DenoiseRequest(halfway, middle)))
        x = x + direction * (sigma_next - sigma_hat)
    return x
