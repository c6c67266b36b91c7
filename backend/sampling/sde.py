"""Samplers of the reverse-time SDE, in log-SNR: dpmpp_sde, dpmpp_2m_sde, dpmpp_3m_sde.

A model's latent is alpha * clean + sigma * noise; alpha is 1 for diffusion models and 1 - sigma for flows.
Times are half log-SNRs, lambda = log(alpha / sigma). eta: 0 gives the ODE, 1 the SDE; s_noise: the noise's
strength.
"""

import torch
from torch import Tensor

from backend.errors import UnsupportedOption
from backend.sampling.ancestral import ancestral_step
from backend.sampling.noise import brownian_noise
from backend.sampling.prediction import Prediction
from backend.sampling.request import DenoiseRequest, RunFacts, Sampler, steps
from backend.values import frozen

FLOW_OFFSET = 1e-4  # the share of a flow's range given up so that its first log-SNR is finite


def log_snr(sigma: Tensor, prediction: Prediction) -> Tensor:
    """Half the log signal-to-noise ratio at sigma."""
    return sigma.logit().neg() if prediction.flow else sigma.log().neg()


def sigma_of(half_log_snr: Tensor, prediction: Prediction) -> Tensor:
    """The inverse of `log_snr`."""
    return half_log_snr.neg().sigmoid() if prediction.flow else half_log_snr.neg().exp()


def finite_start(sigmas: Tensor, prediction: Prediction) -> Tensor:
    """The schedule, its first sigma lowered a little where a flow starts from pure noise."""
    if len(sigmas) < 2 or not prediction.flow or sigmas[0] < 1:
        return sigmas
    return torch.cat([sigmas.new_tensor([prediction.range.percent_to_sigma(FLOW_OFFSET)]), sigmas[1:]])


@frozen(eq=False)
class Leg:
    """One step in log-SNR. h: its length; h_eta: with the noise's part; alpha: the signal's share at its
    end.
    """

    h: Tensor
    h_eta: Tensor
    alpha: Tensor
    keep: Tensor
    noise: Tensor

    def drift(self, x: Tensor, denoised: Tensor) -> Tensor:
        """The first-order step, without its noise."""
        return self.keep * x + self.alpha * (-self.h_eta).expm1().neg() * denoised


def leg(sigma: Tensor, sigma_next: Tensor, prediction: Prediction, eta: float) -> Leg:
    """The step from sigma to sigma_next, both > 0: arXiv:2211.01095, eq. (18), for any eta."""
    start, end = log_snr(sigma, prediction), log_snr(sigma_next, prediction)
    h = end - start
    return Leg(
        h,
        h * (eta + 1),
        sigma_next * end.exp(),
        sigma_next / sigma * (-h * eta).exp(),
        sigma_next * (-2 * h * eta).expm1().neg().sqrt(),
    )


def dpmpp_2m_sde(
    x: Tensor,
    sigmas: Tensor,
    facts: RunFacts,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    solver_type: str = "midpoint",
    noise_device: str = "cpu",
) -> Sampler:
    """SDE-DPM-Solver++(2M). solver_type: midpoint or heun, the form of its second-order term."""
    if solver_type not in ("midpoint", "heun"):
        raise UnsupportedOption("solver_type", solver_type, "Use midpoint or heun.")
    noise = brownian_noise(x, sigmas, facts.seed, _on_cpu(noise_device))
    previous: tuple[Tensor, Tensor] | None = None  # the last estimate and the length of its step
    for step, sigma, sigma_next in steps(finite_start(sigmas, facts.prediction)):
        denoised = yield DenoiseRequest(x, sigma, step)
        if sigma_next == 0:
            x = denoised
            continue
        to = leg(sigma, sigma_next, facts.prediction, eta)
        x = to.drift(x, denoised)
        if previous is not None:
            rise = (denoised - previous[0]) * (to.h / previous[1])
            decay = (-to.h_eta).expm1().neg()
            x = x + to.alpha * (0.5 * decay if solver_type == "midpoint" else decay / -to.h_eta + 1) * rise
        if eta > 0 and s_noise > 0:
            x = x + noise(sigma, sigma_next) * to.noise * s_noise
        previous = denoised, to.h
    return x


def dpmpp_2m_sde_heun(
    x: Tensor,
    sigmas: Tensor,
    facts: RunFacts,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    solver_type: str = "heun",
    noise_device: str = "cpu",
) -> Sampler:
    """dpmpp_2m_sde with Heun's second-order term."""
    return dpmpp_2m_sde(
        x, sigmas, facts, eta=eta, s_noise=s_noise, solver_type=solver_type, noise_device=noise_device
    )


def dpmpp_3m_sde(
    x: Tensor,
    sigmas: Tensor,
    facts: RunFacts,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_device: str = "cpu",
) -> Sampler:
    """SDE-DPM-Solver++ with up to two remembered estimates."""
    noise = brownian_noise(x, sigmas, facts.seed, _on_cpu(noise_device))
    past: list[tuple[Tensor, Tensor]] = []  # newest first: estimate, length of its step
    for step, sigma, sigma_next in steps(finite_start(sigmas, facts.prediction)):
        denoised = yield DenoiseRequest(x, sigma, step)
        if sigma_next == 0:
            x = denoised
            continue
        to = leg(sigma, sigma_next, facts.prediction, eta)
        x = to.drift(x, denoised)
        if past:
            x = x + to.alpha * _curvature(to, denoised, past)
        if eta > 0 and s_noise > 0:
            x = x + noise(sigma, sigma_next) * to.noise * s_noise
        past = [(denoised, to.h), *past][:2]
    return x


def _curvature(to: Leg, denoised: Tensor, past: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The second- and, with two past estimates, third-order terms of a step."""
    second = to.h_eta.neg().expm1() / to.h_eta + 1
    near = past[0][1] / to.h
    rise = (denoised - past[0][0]) / near
    if len(past) == 1:
        return second * rise
    far = past[1][1] / to.h
    older = (past[0][0] - past[1][0]) / far
    bend = (rise - older) / (near + far)
    return second * (rise + bend * near) - (second / to.h_eta - 0.5) * bend


def dpmpp_sde(
    x: Tensor,
    sigmas: Tensor,
    facts: RunFacts,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    r: float = 0.5,
    noise_device: str = "cpu",
) -> Sampler:
    """SDE-DPM-Solver++(2S). r > 0: where in the step, by log-SNR, its second evaluation lies."""
    if r <= 0:
        raise UnsupportedOption("r", r, "Use a number above 0; 0.5 is the middle of the step.")
    noise = brownian_noise(x, sigmas, facts.seed, _on_cpu(noise_device))
    noisy = eta > 0 and s_noise > 0
    for step, sigma, sigma_next in steps(finite_start(sigmas, facts.prediction)):
        denoised = yield DenoiseRequest(x, sigma, step)
        if sigma_next == 0:
            x = denoised
            continue
        start, end = log_snr(sigma, facts.prediction), log_snr(sigma_next, facts.prediction)
        middle = sigma_of(start + r * (end - start), facts.prediction)

        halfway, up = _ancestral_leg(x, denoised, (sigma, middle), eta, facts.prediction)
        if noisy:
            halfway = halfway + noise(sigma, middle) * s_noise * up
        probed = yield DenoiseRequest(halfway, middle)

        mixed = (1 - 1 / (2 * r)) * denoised + 1 / (2 * r) * probed
        x, up = _ancestral_leg(x, mixed, (sigma, sigma_next), eta, facts.prediction)
        if noisy:
            x = x + noise(sigma, sigma_next) * s_noise * up
    return x


def _ancestral_leg(
    x: Tensor, denoised: Tensor, ends: tuple[Tensor, Tensor], eta: float, prediction: Prediction
) -> tuple[Tensor, Tensor]:
    """First-order step between two sigmas, and the deviation of the noise that belongs to it."""
    sigma, sigma_next = ends
    start, end = log_snr(sigma, prediction), log_snr(sigma_next, prediction)
    alpha, alpha_end = sigma * start.exp(), sigma_next * end.exp()
    split = ancestral_step(start.neg().exp(), end.neg().exp(), eta)
    share = split.down / start.neg().exp()
    return (alpha_end / alpha) * share * x + alpha_end * (1 - share) * denoised, alpha_end * split.up


def _on_cpu(noise_device: str) -> bool:
    if noise_device not in ("cpu", "gpu"):
        raise UnsupportedOption("noise_device", noise_device, "Use cpu or gpu.")
    return noise_device == "cpu"
