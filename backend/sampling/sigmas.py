"""Noise schedules: decreasing float32 sigmas [steps + 1] on the CPU, the last one 0 unless said otherwise."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import TypeAlias

import torch
from torch import Tensor

from backend.errors import UnsupportedOption
from backend.guiders import BetaSchedule, Schedule, TurboSchedule
from backend.sampling.discretization import NoiseRange, sigma_max, sigma_min
from backend.sampling.names import PENULTIMATE_DROPPED, SCHEDULER_NAMES

ALL_NOISE = 0.9999  # a denoise above this is 1
NO_SIGMA = 1e-5  # a range whose least sigma is below this ends at it rather than at a further 0
ScheduleFunction: TypeAlias = Callable[[NoiseRange, int], Tensor]
Levels: TypeAlias = Callable[[int], Tensor]  # of one model: as many steps as are asked for


def karras(steps: int, low: float, high: float, rho: float = 7.0) -> Tensor:
    """Sigmas from `high` to `low` > 0, then 0, evenly spaced in sigma^(1/rho): arXiv:2206.00364, eq. (5)."""
    ramp = torch.linspace(0, 1, steps)
    first, last = high ** (1 / rho), low ** (1 / rho)
    return _then_zero((first + ramp * (last - first)) ** rho)


def exponential(steps: int, low: float, high: float) -> Tensor:
    """Sigmas from `high` to `low` > 0, then 0, evenly spaced in log sigma."""
    return _then_zero(torch.linspace(math.log(high), math.log(low), steps).exp())


def polyexponential(steps: int, low: float, high: float, rho: float = 1.0) -> Tensor:
    """As `exponential`, its even spacing bent by the power rho."""
    ramp = torch.linspace(1, 0, steps) ** rho
    return _then_zero((ramp * (math.log(high) - math.log(low)) + math.log(low)).exp())


def laplace(steps: int, low: float, high: float, mu: float = 0.0, beta: float = 0.5) -> Tensor:
    """Log sigmas by a Laplace distribution's quantiles, kept within low..high; no 0 at the end.
    arXiv:2407.03297.
    """
    place = torch.linspace(0, 1, steps)
    spread = torch.sign(0.5 - place) * torch.log(1 - 2 * (0.5 - place).abs() + 1e-5)
    return (mu - beta * spread).exp().clamp(low, high)


def variance_preserving(steps: int, beta_d: float = 19.9, beta_min: float = 0.1, end: float = 1e-3) -> Tensor:
    """The continuous VP schedule from time 1 to `end`, then 0: arXiv:2011.13456, appendix C."""
    t = torch.linspace(1, end, steps)
    return _then_zero(torch.special.expm1(beta_d * t**2 / 2 + beta_min * t).sqrt())


def kl_optimal(steps: int, low: float, high: float) -> Tensor:
    """Sigmas from `high` to `low`, then 0, evenly spaced in angle: arXiv:2404.14507, eq. (19).

    One step starts at `high`, as the first of any number does (ComfyUI divides 0 by 0 there).
    """
    place = torch.arange(steps, dtype=torch.float32) / max(steps - 1, 1)
    return _then_zero((place * math.atan(low) + (1 - place) * math.atan(high)).tan())


def simple(noise_range: NoiseRange, steps: int) -> Tensor:
    """Every (table / steps)-th sigma of the range, from its top."""
    table = noise_range.sigmas
    stride = len(table) / steps
    return _then_zero(torch.stack([table[-(1 + int(i * stride))] for i in range(steps)]))


def ddim_uniform(noise_range: NoiseRange, steps: int) -> Tensor:
    """Whole strides up the range from its second sigma: the top sigma need not be among them, nor `steps`
    kept.
    """
    table = noise_range.sigmas
    from_zero = math.isclose(float(table[1]), 0, abs_tol=NO_SIGMA)
    stride = max(len(table) // (steps + 1 if from_zero else steps), 1)
    picked = table[1::stride].flip(0)
    return picked.clone() if from_zero else _then_zero(picked)


def normal(noise_range: NoiseRange, steps: int) -> Tensor:
    """Even spacing in the network's time, both ends of the range included."""
    first, last = _times(noise_range)
    to_zero = math.isclose(float(noise_range.sigma(torch.tensor(last))), 0, abs_tol=NO_SIGMA)
    sigmas = noise_range.sigma(torch.linspace(first, last, steps + 1 if to_zero else steps))
    return sigmas if to_zero else _then_zero(sigmas)


def sgm_uniform(noise_range: NoiseRange, steps: int) -> Tensor:
    """Even spacing in the network's time, the low end left out in favour of 0."""
    first, last = _times(noise_range)
    return _then_zero(noise_range.sigma(torch.linspace(first, last, steps + 1)[:-1]))


def beta(noise_range: NoiseRange, steps: int, alpha: float = 0.6, beta: float = 0.6) -> Tensor:
    """Times by a beta distribution's quantiles, repeated ones dropped: arXiv:2407.12173."""
    # Here, for it alone needs SciPy, which takes 13 MB of every worker.
    from scipy.special import betaincinv  # type: ignore[import-untyped]  # scipy has no types

    last = len(noise_range.sigmas) - 1
    quantiles = (1 - i / steps for i in range(steps))
    indices = [round(float(betaincinv(alpha, beta, q)) * last) for q in quantiles]
    kept = [i for at, i in enumerate(indices) if at == 0 or i != indices[at - 1]]
    return _then_zero(noise_range.sigmas[kept])


def linear_quadratic(noise_range: NoiseRange, steps: int, threshold: float = 0.025) -> Tensor:
    """Half of the steps clear `threshold` of the noise, evenly; the rest follow a parabola to 0 (Mochi's
    schedule).
    """
    top = float(noise_range.sigmas[-1])
    if steps == 1:
        return torch.tensor([top, 0.0])
    linear = steps // 2
    curved = steps - linear
    excess = linear - threshold * steps
    square = excess / (linear * curved**2)
    rise = threshold / linear - 2 * excess / curved**2
    cleared = [i * threshold / linear for i in range(linear)]
    cleared += [square * i**2 + rise * i + square * linear**2 for i in range(linear, steps)]
    return torch.tensor([1.0 - c for c in (*cleared, 1.0)]) * top


def _ranged(schedule: Callable[[int, float, float], Tensor]) -> ScheduleFunction:
    return lambda noise_range, steps: schedule(steps, sigma_min(noise_range), sigma_max(noise_range))


SCHEDULES: Mapping[str, ScheduleFunction] = MappingProxyType(
    {
        "simple": simple,
        "sgm_uniform": sgm_uniform,
        "karras": _ranged(karras),
        "exponential": _ranged(exponential),
        "ddim_uniform": ddim_uniform,
        "beta": beta,
        "normal": normal,
        "linear_quadratic": linear_quadratic,
        "kl_optimal": _ranged(kl_optimal),
    }
)


def named_sigmas(scheduler: str, steps: int, noise_range: NoiseRange) -> Tensor:
    """The full schedule of that name: float32 [steps + 1] (ddim_uniform and beta may give another number).

    Raises: UnsupportedOption for an unknown name or steps < 1.
    """
    if scheduler not in SCHEDULES:
        raise UnsupportedOption("scheduler", scheduler, f"Use one of {', '.join(SCHEDULER_NAMES)}.")
    if steps < 1:
        raise UnsupportedOption("steps", steps, "Use 1 or more.")
    return SCHEDULES[scheduler](noise_range, steps)


def turbo(noise_range: NoiseRange, steps: int, denoise: float = 1.0) -> Tensor:
    """The sigmas at up to `steps` of the times 999, 899 .. 99, from `denoise` of them on, then 0."""
    skipped = 10 - int(10 * denoise)
    times = torch.arange(1, 11).mul(100).sub(1).flip(0)[skipped : skipped + steps]
    return _then_zero(noise_range.sigma(times))


def model_sigmas(
    schedule: Schedule | BetaSchedule | TurboSchedule, noise_range: NoiseRange, own: Levels | None = None
) -> Tensor:
    """The sigmas that a scheduler node gives for a model's range. own: as for `schedule_sigmas`.

    Raises: UnsupportedOption.
    """
    match schedule:
        case TurboSchedule(steps, denoise):
            return turbo(noise_range, steps, denoise)
        case BetaSchedule(steps, alpha, beta_):
            if min(alpha, beta_) <= 0:
                raise UnsupportedOption("alpha, beta", (alpha, beta_), "Use numbers above 0; 0.6 is common.")
            return beta(noise_range, steps, alpha, beta_)
        case Schedule(scheduler, steps, denoise):
            return basic_sigmas(
                own or partial(named_sigmas, scheduler, noise_range=noise_range), steps, denoise
            )


def resolution_shifted(
    steps: int, tokens: int, shifts: tuple[float, float], terminal: float | None = None
) -> Tensor:
    """Flow sigmas from 1 to 0 with a shift that grows with the latent (LTX-Video, arXiv:2501.00103).

    tokens: latent pixels of a row; shifts: at 1024 and at 4096 of them; terminal: what the last sigma before
    0 is stretched to, None: as it is.
    """
    base, most = shifts
    slope = (most - base) / (4096 - 1024)
    factor = math.exp(tokens * slope + base - slope * 1024)
    even = torch.linspace(1.0, 0.0, steps + 1)[:-1]
    sigmas = factor / (factor + (1 / even - 1))
    if terminal is not None:
        cleared = 1.0 - sigmas
        sigmas = 1.0 - cleared / (cleared[-1] / (1.0 - terminal))
    return _then_zero(sigmas)


def basic_sigmas(levels: Levels, steps: int, denoise: float) -> Tensor:
    """BasicScheduler: the last `steps` steps of the schedule of int(steps / denoise); empty where denoise
    is 0.
    """
    if denoise <= 0.0:
        return torch.zeros(0)
    total = steps if denoise >= 1.0 else int(steps / denoise)
    return levels(total)[-(steps + 1) :]


def schedule_sigmas(
    schedule: Schedule, noise_range: NoiseRange, sampler_name: str, own: Levels | None = None
) -> Tensor:
    """The sigmas that KSampler and KSamplerAdvanced run: all, the last steps (denoise < 1), or a stretch of
    them.

    own: the schedule, where it is not one of `SCHEDULES`.
    Returns: float32; empty where nothing is to be done (denoise 0, or a start at or behind the last step),
    and then the latent is handed back as it is.
    Raises: UnsupportedOption for an unknown scheduler or steps < 1.
    """
    levels = own or partial(named_sigmas, schedule.scheduler, noise_range=noise_range)
    sigmas = _denoise_sigmas(schedule, levels, sampler_name)
    if schedule.end is not None and schedule.end < len(sigmas) - 1:
        sigmas = sigmas[: schedule.end + 1].clone()
        if schedule.force_full_denoise:
            sigmas[-1] = 0
    if schedule.start is None:
        return sigmas
    return sigmas[schedule.start :] if schedule.start < len(sigmas) - 1 else sigmas[:0]


def _denoise_sigmas(schedule: Schedule, levels: Levels, sampler_name: str) -> Tensor:
    if schedule.denoise > ALL_NOISE:
        return _for_sampler(levels, schedule.steps, sampler_name)
    if schedule.denoise <= 0.0:
        return torch.zeros(0)
    total = int(schedule.steps / schedule.denoise)
    return _for_sampler(levels, total, sampler_name)[-(schedule.steps + 1) :]


def _for_sampler(levels: Levels, steps: int, sampler_name: str) -> Tensor:
    if sampler_name not in PENULTIMATE_DROPPED:
        return levels(steps)
    sigmas = levels(steps + 1)
    return torch.cat([sigmas[:-2], sigmas[-1:]])


def _times(noise_range: NoiseRange) -> tuple[float, float]:
    """The network's time at the top and at the low end of the range."""
    table = noise_range.sigmas
    return float(noise_range.timestep(table[-1])), float(noise_range.timestep(table[0]))


def _then_zero(sigmas: Tensor) -> Tensor:
    return torch.cat([sigmas, sigmas.new_zeros(1)])
