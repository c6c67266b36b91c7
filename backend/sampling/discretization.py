"""The noise range of a model: which sigmas it was trained on and how they map to its timesteps.

Sigmas are standard deviations of the noise in scaled-latent units (diffusion), or the share of noise in the
mixture, 0..1 (flow). All tensors here are float32 on the CPU; tables run from least to most noise.
"""

import math
from collections.abc import Callable
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from backend.values import frozen

Time = TypeVar("Time", float, Tensor)
BEYOND_ALL_NOISE = 999999999.9  # the sigma that ComfyUI gives to 0 percent: above every sigma of a schedule
_COSINE = 8e-3  # keeps a cosine's first step from having next to no noise
_COSINE_FIRST = math.cos(_COSINE / (1 + _COSINE) * math.pi * 0.5) ** 2
LAST_ALPHA = (
    4.8973451890853435e-08  # signal left at the last step of a zero-terminal-SNR range, in place of 0
)


class NoiseRange(Protocol):
    """What samplers and schedules ask of a model's noise range."""

    @property
    def sigmas(self) -> Tensor:
        """The table of sigmas, ascending."""
        ...

    def timestep(self, sigma: Tensor) -> Tensor:
        """sigma, any shape -> what the network takes as its time, the same shape."""
        ...

    def sigma(self, timestep: Tensor) -> Tensor:
        """The inverse of `timestep`, interpolated where the range is a table."""
        ...

    def percent_to_sigma(self, percent: float) -> float:
        """The sigma where `percent` (0..1) of the range, counted from most noise, is done."""
        ...


def sigma_min(noise_range: NoiseRange) -> float:
    return float(noise_range.sigmas[0])


def sigma_max(noise_range: NoiseRange) -> float:
    return float(noise_range.sigmas[-1])


@frozen(eq=False)
class Table:
    """A range of discrete steps (SD1.5, SDXL): a timestep is the index of the nearest log sigma.

    stride: only every so manieth step of the network's own is in the table, the last of each stretch.
    """

    sigmas: Tensor
    log_sigmas: Tensor
    stride: int = 1

    def timestep(self, sigma: Tensor) -> Tensor:
        distance = (sigma.reshape(1, -1).log().to(self.log_sigmas.device) - self.log_sigmas[:, None]).abs()
        index = distance.argmin(dim=0).reshape(sigma.shape).to(sigma.device)
        return index * self.stride + (self.stride - 1)

    def sigma(self, timestep: Tensor) -> Tensor:
        place = (timestep.float().to(self.log_sigmas.device) - (self.stride - 1)) / self.stride
        at = place.clamp(0, len(self.log_sigmas) - 1)
        low, high, weight = at.floor().long(), at.ceil().long(), at.frac()
        mixed = (1 - weight) * self.log_sigmas[low] + weight * self.log_sigmas[high]
        return mixed.exp().to(timestep.device)

    def percent_to_sigma(self, percent: float) -> float:
        if percent <= 0.0:
            return BEYOND_ALL_NOISE
        if percent >= 1.0:
            return 0.0
        return float(self.sigma(torch.tensor((1.0 - percent) * 999.0)))


@frozen(eq=False)
class Continuous:
    """A range without steps (EDM and SVD models): time is a quarter of log sigma, or, as an angle, 2/pi of
    its arctangent.
    """

    sigmas: Tensor
    angle: bool = False

    def timestep(self, sigma: Tensor) -> Tensor:
        return sigma.atan() / math.pi * 2 if self.angle else 0.25 * sigma.log()

    def sigma(self, timestep: Tensor) -> Tensor:
        return (timestep * math.pi / 2).tan() if self.angle else (timestep / 0.25).exp()

    def percent_to_sigma(self, percent: float) -> float:
        if percent <= 0.0:
            return BEYOND_ALL_NOISE
        if percent >= 1.0:
            return 0.0
        low, high = math.log(float(self.sigmas[0])), math.log(float(self.sigmas[-1]))
        return math.exp((high - low) * (1.0 - percent) + low)


@frozen(eq=False)
class ContinuousFlow(Continuous):
    """A range without steps of a flow whose noise is added (Cosmos): time is the noise's share of it all."""

    def timestep(self, sigma: Tensor) -> Tensor:
        return sigma / (sigma + 1)

    def sigma(self, timestep: Tensor) -> Tensor:
        return (timestep / (1 - timestep).clamp(min=0)).clamp(max=self.sigmas[-1].to(timestep.device))


@frozen(eq=False)
class ShiftedFlow:
    """Flow with a resolution shift (SD3, Wan): sigma = shift * t / (1 + (shift - 1) * t), t in 0..1.

    multiplier: the network's time is sigma times this. Source: arXiv:2403.03206, section 5.3.2.
    """

    sigmas: Tensor
    shift: float
    multiplier: float

    def timestep(self, sigma: Tensor) -> Tensor:
        return sigma * self.multiplier

    def sigma(self, timestep: Tensor) -> Tensor:
        return shifted(self.shift, timestep / self.multiplier)

    def percent_to_sigma(self, percent: float) -> float:
        return _flow_percent(percent, self.shift, shifted)


@frozen(eq=False)
class ExponentialFlow:
    """Flow with Flux's shift: sigma = e^shift / (e^shift + 1/t - 1), t in 0..1; the network's time is
    sigma.
    """

    sigmas: Tensor
    shift: float

    def timestep(self, sigma: Tensor) -> Tensor:
        return sigma

    def sigma(self, timestep: Tensor) -> Tensor:
        return _exponential(self.shift, timestep)

    def percent_to_sigma(self, percent: float) -> float:
        return _flow_percent(percent, self.shift, _exponential)


def table(sigmas: Tensor) -> Table:
    """The discrete range with these sigmas, ascending; any float dtype."""
    return Table(sigmas.float(), sigmas.log().float())


def scaled_linear(
    beta_start: float = 0.00085, beta_end: float = 0.012, steps: int = 1000, zero_terminal: bool = False
) -> Table:
    """Stable Diffusion's range: betas whose square roots are evenly spaced.

    zero_terminal: stretched until the last step holds no signal (arXiv:2305.08891, Alg. 1).
    """
    betas = torch.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=torch.float64) ** 2
    alphas = torch.cumprod(1 - betas, dim=0)
    sigmas = ((1 - alphas) / alphas) ** 0.5
    return table(stretched(sigmas) if zero_terminal else sigmas)


def distilled(noise_range: Table, steps: int = 50) -> Table:
    """The steps that a latent consistency model was distilled for: every 20th of 1000. arXiv:2310.04378."""
    stride = len(noise_range.sigmas) // steps
    last = len(noise_range.sigmas) - 1
    sigmas = torch.stack([noise_range.sigmas[last - i * stride] for i in reversed(range(steps))])
    return Table(sigmas, sigmas.log(), stride)


def continuous(low: float, high: float, angle: bool = False) -> Continuous:
    """A range from sigma `low` to `high`, both > 0, evenly spaced in log sigma."""
    return Continuous(_evenly(low, high), angle)


def continuous_flow(low: float, high: float) -> ContinuousFlow:
    """The same, with the time of a flow."""
    return ContinuousFlow(_evenly(low, high))


@frozen(eq=False)
class Cosine:
    """Stable Cascade's range, whose signal follows a cosine; the network's time goes from 0 to 1.

    Source: arXiv:2102.09672, eq. (17); the shift, in the logarithm of the signal's share: arXiv:2301.11093.
    """

    sigmas: Tensor
    shift: float

    def timestep(self, sigma: Tensor) -> Tensor:
        signal = (1 / (sigma * sigma + 1)).clamp(0, 1.0)
        return ((signal * _COSINE_FIRST) ** 0.5).acos() / (math.pi * 0.5) * (1 + _COSINE) - _COSINE

    def sigma(self, timestep: Tensor) -> Tensor:
        return _cosine(self.shift, timestep)

    def percent_to_sigma(self, percent: float) -> float:
        if percent <= 0.0:
            return BEYOND_ALL_NOISE
        return 0.0 if percent >= 1.0 else float(_cosine(self.shift, torch.tensor(1.0 - percent)))


def cascade(shift: float = 1.0, steps: int = 10000) -> Cosine:
    """Stable Cascade's range: shift 2 as a rule."""
    return Cosine(_cosine(shift, torch.arange(1, steps + 1) / steps), shift)


def shifted_flow(shift: float, multiplier: float = 1000.0, steps: int = 1000) -> ShiftedFlow:
    """SD3: shift 3; Wan: shift 8. multiplier 1 for networks whose time is sigma itself."""
    times = (torch.arange(1, steps + 1) / steps) * multiplier / multiplier
    return ShiftedFlow(shifted(shift, times), shift, multiplier)


def exponential_flow(shift: float = 1.15, steps: int = 10000) -> ExponentialFlow:
    """Flux and Qwen-Image: shift 1.15 unless the resolution says otherwise."""
    return ExponentialFlow(_exponential(shift, torch.arange(1, steps + 1) / steps), shift)


def stretched(sigmas: Tensor) -> Tensor:
    """A range stretched until its last step holds no signal: arXiv:2305.08891, Alg. 1."""
    roots = (1 / (sigmas * sigmas + 1)).sqrt()
    first, last = roots[0], roots[-1]
    alphas = ((roots - last) * (first / (first - last))) ** 2
    alphas[-1] = LAST_ALPHA
    return ((1 - alphas) / alphas) ** 0.5


def shifted(shift: float, t: Time) -> Time:
    """A time 0..1 moved towards more noise by a resolution's shift: arXiv:2403.03206, section 5.3.2."""
    return t if shift == 1.0 else shift * t / (1 + (shift - 1) * t)


def _evenly(low: float, high: float) -> Tensor:
    return torch.linspace(math.log(low), math.log(high), 1000).exp()


def _cosine(shift: float, t: Tensor) -> Tensor:
    """t in 0..1 -> sigma."""
    signal = ((t + _COSINE) / (1 + _COSINE) * math.pi * 0.5).cos() ** 2 / _COSINE_FIRST
    if shift != 1.0:
        signal = ((signal / (1 - signal)).log() + 2 * math.log(1.0 / shift)).sigmoid()
    signal = signal.clamp(0.0001, 0.9999)
    return ((1 - signal) / signal) ** 0.5


def _exponential(shift: float, t: Time) -> Time:
    return math.exp(shift) / (math.exp(shift) + (1 / t - 1))


def _flow_percent(percent: float, shift: float, sigma_at: Callable[[float, float], float]) -> float:
    if percent <= 0.0:
        return 1.0
    return 0.0 if percent >= 1.0 else sigma_at(shift, 1.0 - percent)
