"""A model's noise range and prediction, as ComfyUI's `model_sampling` object has them."""

from typing import Any

import torch
from torch import Tensor

from backend.sampling.discretization import (
    NoiseRange,
    Table,
    exponential_flow,
    scaled_linear,
    shifted_flow,
    sigma_max,
    sigma_min,
)
from backend.sampling.prediction import Kind, Prediction


class ModelSampling(torch.nn.Module):
    """ComfyUI's methods over a `Prediction`. Packs call them, and put objects with them into models."""

    def __init__(self, prediction: Prediction) -> None:
        super().__init__()
        self.prediction = prediction

    @property
    def sigma_min(self) -> Tensor:
        return torch.tensor(sigma_min(self.prediction.range))

    @property
    def sigma_max(self) -> Tensor:
        return torch.tensor(sigma_max(self.prediction.range))

    @property
    def sigmas(self) -> Tensor:
        return self.prediction.range.sigmas

    @property
    def log_sigmas(self) -> Tensor:
        return self.prediction.range.sigmas.log()

    @property
    def sigma_data(self) -> float:
        return self.prediction.sigma_data

    @property
    def num_timesteps(self) -> int:
        return len(self.prediction.range.sigmas)

    def timestep(self, sigma: Tensor) -> Tensor:
        return self.prediction.timestep(sigma)

    def sigma(self, timestep: Tensor) -> Tensor:
        return self.prediction.range.sigma(timestep)

    def percent_to_sigma(self, percent: float) -> float:
        return self.prediction.range.percent_to_sigma(percent)

    def calculate_input(self, sigma: Tensor, noise: Tensor) -> Tensor:
        return self.prediction.scale_input(noise, sigma)

    def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor:
        return self.prediction.denoised(model_input, model_output, sigma)

    def noise_scaling(
        self, sigma: Tensor, noise: Tensor, latent_image: Tensor, max_denoise: bool = False
    ) -> Tensor:
        return self.prediction.noise_scaling(sigma, noise, latent_image, max_denoise)

    def inverse_noise_scaling(self, sigma: Tensor, latent: Tensor) -> Tensor:
        return self.prediction.inverse_noise_scaling(sigma, latent)


class Replaced:
    """A pack's own `model_sampling` object, as a run uses it: the other way round."""

    def __init__(self, object_: Any) -> None:
        self._of = object_

    kind: Kind = "eps"
    sigma_data = 1.0

    @property
    def range(self) -> NoiseRange:
        return _RangeOf(self._of)

    @property
    def flow(self) -> bool:
        one = torch.ones(1, 1)
        return float(self._of.noise_scaling(torch.tensor(0.5), one * 0, one)) != 1.0

    def timestep(self, sigma: Tensor) -> Tensor:
        made: Tensor = self._of.timestep(sigma)
        return made

    def scale_input(self, x: Tensor, sigma: Tensor) -> Tensor:
        made: Tensor = self._of.calculate_input(sigma.reshape(-1).to(x), x)
        return made

    def denoised(self, x: Tensor, output: Tensor, sigma: Tensor) -> Tensor:
        made: Tensor = self._of.calculate_denoised(sigma.reshape(-1).to(x), output, x)
        return made

    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent: Tensor, full: bool = False) -> Tensor:
        made: Tensor = self._of.noise_scaling(sigma.to(noise), noise, latent, full)
        return made

    def inverse_noise_scaling(self, sigma: Tensor, x: Tensor) -> Tensor:
        made: Tensor = self._of.inverse_noise_scaling(sigma.to(x), x)
        return made

    def is_full(self, sigma: float) -> bool:
        top = float(self._of.sigma_max)
        return sigma > top or abs(top - sigma) <= 1e-5 * max(abs(top), abs(sigma))


class _RangeOf:
    """The noise range of a pack's object."""

    def __init__(self, object_: Any) -> None:
        self._of = object_

    @property
    def sigmas(self) -> Tensor:
        listed = getattr(self._of, "sigmas", None)
        if isinstance(listed, Tensor):
            return listed.float().cpu()
        low, high = float(self._of.sigma_min), float(self._of.sigma_max)
        return torch.linspace(low, high, 1000)

    def timestep(self, sigma: Tensor) -> Tensor:
        made: Tensor = self._of.timestep(sigma)
        return made

    def sigma(self, timestep: Tensor) -> Tensor:
        made: Tensor = self._of.sigma(timestep)
        return made

    def percent_to_sigma(self, percent: float) -> float:
        return float(self._of.percent_to_sigma(percent))


def discrete(config: Any = None, zsnr: bool = False) -> Table:
    """Stable Diffusion's range, by a model config's `sampling_settings`."""
    settings = dict(getattr(config, "sampling_settings", None) or {})
    start, end = settings.get("linear_start", 0.00085), settings.get("linear_end", 0.012)
    zero = settings.get("zsnr", zsnr)
    return scaled_linear(start, end, settings.get("timesteps", 1000), bool(zero))


def flow(shift: float = 1.0, multiplier: float = 1000.0) -> NoiseRange:
    """SD3's kind of range."""
    return shifted_flow(shift, multiplier)


def flux(shift: float = 1.15) -> NoiseRange:
    """Flux's kind of range."""
    return exponential_flow(shift)
