"""CFG++ samplers and res_multistep. CFG++ (arXiv:2406.08070) lands on the guided estimate but leaves along
the slope of the unconditional one, so its requests ask for both.
"""

from torch import Tensor
from torch.special import expm1

from backend.sampling.ancestral import Renoise, ancestral_step
from backend.sampling.noise import ancestral_noise
from backend.sampling.request import DenoiseRequest, RunFacts, Sampler, slope, steps
from backend.sampling.sde import log_snr


def euler_ancestral_cfg_pp(
    x: Tensor, sigmas: Tensor, facts: RunFacts, *, eta: float = 1.0, s_noise: float = 1.0
) -> Sampler:
    """Ancestral Euler steps; for flows through the noise-added form of the latent."""
    noise = ancestral_noise(x, facts.seed)
    for step, sigma, sigma_next in steps(sigmas):
        denoised, uncond = yield DenoiseRequest(x, sigma, step, uncond=True)
        if sigma_next == 0:
            x = denoised
            continue
        alpha, alpha_next = (s * log_snr(s, facts.prediction).exp() for s in (sigma, sigma_next))
        split = ancestral_step(sigma / alpha, sigma_next / alpha_next, eta)
        x = alpha_next * denoised + alpha_next * split.down * slope(x, sigma, alpha * uncond)
        if eta > 0 and s_noise > 0:
            x = x + alpha_next * noise(sigma, sigma_next) * s_noise * split.up
    return x


def euler_cfg_pp(x: Tensor, sigmas: Tensor, facts: RunFacts) -> Sampler:
    """Euler steps."""
    return euler_ancestral_cfg_pp(x, sigmas, facts, eta=0.0, s_noise=0.0)


def euler_cfg_pp_alternative(x: Tensor, sigmas: Tensor, facts: RunFacts) -> Sampler:
    """Euler steps along the slope from twice the guided estimate, less the unconditional one."""
    for step, sigma, sigma_next in steps(sigmas):
        denoised, uncond = yield DenoiseRequest(x, sigma, step, uncond=True)
        x = x + slope(x - denoised + uncond, sigma, denoised) * (sigma_next - sigma)
    return x


def dpmpp_2s_ancestral_cfg_pp(
    x: Tensor, sigmas: Tensor, facts: RunFacts, *, eta: float = 1.0, s_noise: float = 1.0
) -> Sampler:
    """dpmpp_2s_ancestral; each half of a step starts from x moved by guided minus (latest) unconditional
    estimate.
    """
    noise = ancestral_noise(x, facts.seed)
    for step, sigma, sigma_next in steps(sigmas):
        denoised, uncond = yield DenoiseRequest(x, sigma, step, uncond=True)
        split = ancestral_step(sigma, sigma_next, eta)
        if split.down == 0:
            x = denoised + slope(x, sigma, uncond) * split.down
        else:
            moved = x + (denoised - uncond)
            middle = (sigma * split.down).sqrt()
            halfway = middle / sigma * moved + (1 - middle / sigma) * denoised
            probed, uncond = yield DenoiseRequest(halfway, middle, uncond=True)
            moved = x + (denoised - uncond)
            x = split.down / sigma * moved + (1 - split.down / sigma) * probed
        if sigma_next > 0:
            x = split.add(x, noise(sigma, sigma_next), s_noise)
    return x


def dpmpp_2m_cfg_pp(x: Tensor, sigmas: Tensor, facts: RunFacts) -> Sampler:
    """dpmpp_2m; its memory is of unconditional estimates."""
    previous: Tensor | None = None
    for step, sigma, sigma_next in steps(sigmas):
        denoised, uncond = yield DenoiseRequest(x, sigma, step, uncond=True)
        share = sigma_next / sigma
        moved = share * (x - uncond)
        if previous is not None and sigma_next != 0:
            r = (sigmas[step - 1].log() - sigma.log()) / (sigma.log() - sigma_next.log())
            moved = moved + (1 - share) / (2 * r) * (denoised - previous)
        x = denoised + moved
        previous = uncond
    return x


def gradient_estimation_cfg_pp(
    x: Tensor, sigmas: Tensor, facts: RunFacts, *, ge_gamma: float = 2.0
) -> Sampler:
    """gradient_estimation along unconditional slopes."""
    previous: Tensor | None = None
    for step, sigma, sigma_next in steps(sigmas):
        denoised, uncond = yield DenoiseRequest(x, sigma, step, uncond=True)
        here = slope(x, sigma, uncond)
        if sigma_next == 0:
            x = denoised
        else:
            x = denoised + here * sigma_next
            if previous is not None:
                x = x + (ge_gamma - 1) * (here - previous) * (sigma_next - sigma)
        previous = here
    return x


def res_multistep(x: Tensor, sigmas: Tensor, facts: RunFacts, *, s_noise: float = 1.0) -> Sampler:
    """Second-order exponential multistep: arXiv:2308.02157."""
    return _res_multistep(x, sigmas, facts, 0.0, s_noise, plus=False)


def res_multistep_ancestral(
    x: Tensor, sigmas: Tensor, facts: RunFacts, *, eta: float = 1.0, s_noise: float = 1.0
) -> Sampler:
    """res_multistep to below the next sigma, then noise up to it."""
    return _res_multistep(x, sigmas, facts, eta, s_noise, plus=False)


def res_multistep_cfg_pp(x: Tensor, sigmas: Tensor, facts: RunFacts, *, s_noise: float = 1.0) -> Sampler:
    """res_multistep with CFG++."""
    return _res_multistep(x, sigmas, facts, 0.0, s_noise, plus=True)


def res_multistep_ancestral_cfg_pp(
    x: Tensor, sigmas: Tensor, facts: RunFacts, *, eta: float = 1.0, s_noise: float = 1.0
) -> Sampler:
    """res_multistep_ancestral with CFG++."""
    return _res_multistep(x, sigmas, facts, eta, s_noise, plus=True)


def _res_multistep(
    x: Tensor, sigmas: Tensor, facts: RunFacts, eta: float, s_noise: float, plus: bool
) -> Sampler:
    """plus: CFG++. `leaving` is the estimate that the step's slope belongs to."""
    noise = ancestral_noise(x, facts.seed)
    previous: tuple[Tensor, Renoise] | None = None
    for step, sigma, sigma_next in steps(sigmas):
        reply = yield DenoiseRequest(x, sigma, step, uncond=plus)
        denoised, leaving = (reply[0], reply[1]) if plus else (reply, reply)
        split = ancestral_step(sigma, sigma_next, eta)
        if split.down == 0 or previous is None:
            x = denoised + slope(x, sigma, leaving) * split.down
        else:
            older, older_split = previous
            here, weight = _res_weights(sigmas[step - 1], older_split.down, sigma, split.down)
            x = split.down / sigma * (x + (denoised - leaving)) + here * leaving + weight * older
        if sigma_next > 0 and eta > 0:
            x = split.add(x, noise(sigma, sigma_next), s_noise)
        previous = leaving, split
    return x


def _res_weights(before: Tensor, landed: Tensor, sigma: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of the newest and the older estimate in a step from sigma to `down`.

    before: the sigma of the older estimate; landed: the sigma its step went down to before noise was added.
    """
    h = sigma.log() - down.log()
    c = (landed.log() - before.log()) / h
    phi_1 = expm1(-h) / -h
    phi_2 = (phi_1 - 1.0) / -h
    newest = (phi_1 - phi_2 / c).nan_to_num(nan=0.0)
    return h * newest, h * (phi_2 / c).nan_to_num(nan=0.0)
