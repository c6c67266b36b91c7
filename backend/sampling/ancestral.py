"""Samplers that step lower than the schedule asks and add fresh noise: the `ancestral` ones, ddpm and lcm.

eta 0..1 and above: how much of a step's noise is fresh; s_noise: its strength.
"""

import torch
from torch import Tensor

from backend.resize import resize
from backend.sampling.noise import NoiseSource, ancestral_noise, leftover_generator
from backend.sampling.request import DenoiseRequest, RunFacts, Sampler, slope, steps
from backend.values import frozen

FLOW_START = 0.9999  # stands in for a flow's sigma of 1, whose log-SNR is infinite


@frozen(eq=False)
class Renoise:
    """One step's split. down: the sigma to step to; up: the deviation of the fresh noise; keep: the factor
    on x before it (1 but for flows)."""

    down: Tensor
    up: Tensor
    keep: Tensor

    def add(self, x: Tensor, noise: Tensor, s_noise: float) -> Tensor:
        return self.keep * x + noise * s_noise * self.up


def ancestral_step(sigma: Tensor, sigma_next: Tensor, eta: float) -> Renoise:
    """The split of a step where noise is added to the latent; down^2 + up^2 = sigma_next^2."""
    one = torch.ones_like(sigma_next)
    if not eta:
        return Renoise(sigma_next, torch.zeros_like(sigma_next), one)
    # fmin: where sigma rises (a flipped schedule) the root is no number, and all of the noise is fresh
    up = torch.fmin(sigma_next, eta * (sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2) ** 0.5)
    return Renoise((sigma_next**2 - up**2) ** 0.5, up, one)


def flow_step(sigma: Tensor, sigma_next: Tensor, eta: float) -> Renoise:
    """The split of a step where noise and latent are mixed: signal and noise come out at sigma_next's
    shares.
    """
    down = sigma_next * (1 + (sigma_next / sigma - 1) * eta)
    keep = (1 - sigma_next) / (1 - down)
    return Renoise(down, (sigma_next**2 - down**2 * keep**2) ** 0.5, keep)


def _step(facts: RunFacts, sigma: Tensor, sigma_next: Tensor, eta: float) -> Renoise:
    return (flow_step if facts.prediction.flow else ancestral_step)(sigma, sigma_next, eta)


def _ends(facts: RunFacts, split: Renoise, sigma_next: Tensor) -> bool:
    """No noise is left to step through."""
    return bool((sigma_next if facts.prediction.flow else split.down) == 0)


def euler_ancestral(
    x: Tensor, sigmas: Tensor, facts: RunFacts, *, eta: float = 1.0, s_noise: float = 1.0
) -> Sampler:
    """Euler steps to below the next sigma, then noise up to it."""
    noise = ancestral_noise(x, facts.seed)
    for step, sigma, sigma_next in steps(sigmas):
        denoised = yield DenoiseRequest(x, sigma, step)
        split = _step(facts, sigma, sigma_next, eta)
        if _ends(facts, split, sigma_next):
            x = denoised
            continue
        if facts.prediction.flow:
            share = split.down / sigma
            x = share * x + (1 - share) * denoised
        else:
            x = x + slope(x, sigma, denoised) * (split.down - sigma)
        if eta > 0:
            x = split.add(x, noise(sigma, sigma_next), s_noise)
    return x


def dpm_2_ancestral(
    x: Tensor, sigmas: Tensor, facts: RunFacts, *, eta: float = 1.0, s_noise: float = 1.0
) -> Sampler:
    """dpm_2 steps to below the next sigma, then noise up to it."""
    noise = ancestral_noise(x, facts.seed)
    for step, sigma, sigma_next in steps(sigmas):
        denoised = yield DenoiseRequest(x, sigma, step)
        split = _step(facts, sigma, sigma_next, eta)
        direction = slope(x, sigma, denoised)
        if split.down == 0:
            x = x + direction * (split.down - sigma)
            continue
        middle = sigma.log().lerp(split.down.log(), 0.5).exp()
        halfway = x + direction * (middle - sigma)
        direction = slope(halfway, middle, (yield DenoiseRequest(halfway, middle)))
        x = split.add(x + direction * (split.down - sigma), noise(sigma, sigma_next), s_noise)
    return x


def dpmpp_2s_ancestral(
    x: Tensor, sigmas: Tensor, facts: RunFacts, *, eta: float = 1.0, s_noise: float = 1.0
) -> Sampler:
    """DPM-Solver++(2S) steps (arXiv:2211.01095, Alg. 1) to below the next sigma, then noise up to it."""
    noise = ancestral_noise(x, facts.seed)
    for step, sigma, sigma_next in steps(sigmas):
        denoised = yield DenoiseRequest(x, sigma, step)
        split = _step(facts, sigma, sigma_next, eta)
        if _ends(facts, split, sigma_next):
            x = x + slope(x, sigma, denoised) * (split.down - sigma)
        else:
            middle = _flow_middle(sigma, split.down) if facts.prediction.flow else (sigma * split.down).sqrt()
            halfway = _towards(x, denoised, middle / sigma)
            denoised = yield DenoiseRequest(halfway, middle)
            x = _towards(x, denoised, split.down / sigma)
        if sigma_next > 0 and (eta > 0 or not facts.prediction.flow):
            x = split.add(x, noise(sigma, sigma_next), s_noise)
    return x


def _towards(x: Tensor, denoised: Tensor, share: Tensor) -> Tensor:
    """The first-order step of both kinds of model: `share` of the noise is left."""
    return share * x + (1 - share) * denoised


def _flow_middle(sigma: Tensor, down: Tensor) -> Tensor:
    """The sigma in the middle of two by log-SNR."""
    if sigma == 1.0:
        return torch.full_like(sigma, FLOW_START)
    start = ((1 - sigma) / sigma).log()
    middle = start + 0.5 * (((1 - down) / down).log() - start)
    return (middle.exp() + 1) ** -1


def ddpm(x: Tensor, sigmas: Tensor, facts: RunFacts) -> Sampler:
    """The posterior of the forward process: arXiv:2006.11239, Alg. 2, for any pair of sigmas."""
    noise = ancestral_noise(x, facts.seed)
    for step, sigma, sigma_next in steps(sigmas):
        denoised = yield DenoiseRequest(x, sigma, step)
        scaled = x / (1.0 + sigma**2.0).sqrt()  # the process keeps the variance at 1
        scaled = _posterior(scaled, slope(x, sigma, denoised), sigma, sigma_next, noise)
        x = scaled * (1.0 + sigma_next**2.0).sqrt() if sigma_next != 0 else scaled
    return x


def _posterior(x: Tensor, eps: Tensor, sigma: Tensor, sigma_next: Tensor, noise: NoiseSource) -> Tensor:
    signal, signal_next = 1 / (sigma * sigma + 1), 1 / (sigma_next * sigma_next + 1)
    ratio = signal / signal_next
    mean = (1.0 / ratio).sqrt() * (x - (1 - ratio) * eps / (1 - signal).sqrt())
    if sigma_next <= 0:
        return mean
    return mean + ((1 - ratio) * (1.0 - signal_next) / (1.0 - signal)).sqrt() * noise(sigma, sigma_next)


def lcm(x: Tensor, sigmas: Tensor, facts: RunFacts) -> Sampler:
    """The denoised estimate, brought to the next sigma by fresh noise: arXiv:2303.01469, Alg. 1."""
    noise = ancestral_noise(x, facts.seed)
    for step, sigma, sigma_next in steps(sigmas):
        x = yield DenoiseRequest(x, sigma, step)
        if sigma_next > 0:
            x = facts.prediction.noise_scaling(sigma_next, noise(sigma, sigma_next), x)
    return x


def lcm_upscale(
    x: Tensor,
    sigmas: Tensor,
    facts: RunFacts,
    *,
    total_upscale: float = 2.0,
    upscale_steps: int = -1,
    upscale_method: str = "bislerp",
) -> Sampler:
    """lcm on a latent that grows with its first steps, evenly to `total_upscale` times its size.

    upscale_steps: how many steps enlarge; -1: half of them. The result is larger than x.
    """
    generator = leftover_generator(x, facts.seed)
    count = len(sigmas) // 2 if upscale_steps < 0 else min(upscale_steps, len(sigmas))
    count = max(count, 1) if upscale_steps < 0 else count
    scales = [1.0 + (total_upscale - 1.0) * (i + 1) / count for i in range(count)]
    height, width = x.shape[-2:]
    for step, sigma, sigma_next in steps(sigmas):
        x = yield DenoiseRequest(x, sigma, step)
        if step < len(scales):
            x = resize(x, round(width * scales[step]), round(height * scales[step]), upscale_method)
        if sigma_next > 0:
            noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
            x = x + sigma_next * noise
    return x
