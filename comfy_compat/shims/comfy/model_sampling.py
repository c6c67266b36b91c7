"""ComfyUI's `comfy.model_sampling`: predictions to mix with noise ranges, as packs do."""

import math

import torch

from backend.sampling.discretization import (
    Continuous,
    continuous,
    continuous_flow,
    exponential_flow,
    shifted,
    shifted_flow,
    stretched,
    table,
)
from comfy_compat.model_sampling import ModelSampling, discrete  # noqa: F401

rescale_zero_terminal_snr_sigmas, time_snr_shift = stretched, shifted


def _rows(sigma, like):
    return sigma.view(sigma.shape[:1] + (1,) * (like.ndim - 1))


class EPS:
    """The network predicts the noise."""

    def calculate_input(self, sigma, noise):
        return noise / (_rows(sigma, noise) ** 2 + self.sigma_data**2) ** 0.5

    def calculate_denoised(self, sigma, model_output, model_input):
        return model_input - model_output * _rows(sigma, model_output)

    def noise_scaling(self, sigma, noise, latent_image, max_denoise=False):
        sigma = _rows(sigma, noise) if sigma.ndim else sigma
        scaled = noise * torch.sqrt(1.0 + sigma**2.0) if max_denoise else noise * sigma
        return scaled + latent_image

    def inverse_noise_scaling(self, sigma, latent):
        return latent


class V_PREDICTION(EPS):
    def calculate_denoised(self, sigma, model_output, model_input):
        sigma = _rows(sigma, model_output)
        variance = sigma**2 + self.sigma_data**2
        return (
            model_input * self.sigma_data**2 / variance
            - model_output * sigma * self.sigma_data / variance**0.5
        )


class EDM(V_PREDICTION):
    def calculate_denoised(self, sigma, model_output, model_input):
        sigma = _rows(sigma, model_output)
        variance = sigma**2 + self.sigma_data**2
        return (
            model_input * self.sigma_data**2 / variance
            + model_output * sigma * self.sigma_data / variance**0.5
        )


class CONST:
    """A flow: noise and latent are mixed."""

    def calculate_input(self, sigma, noise):
        return noise

    def calculate_denoised(self, sigma, model_output, model_input):
        return model_input - model_output * _rows(sigma, model_output)

    def noise_scaling(self, sigma, noise, latent_image, max_denoise=False):
        sigma = _rows(sigma, noise) if sigma.ndim else sigma
        return sigma * noise + (1.0 - sigma) * latent_image

    def inverse_noise_scaling(self, sigma, latent):
        return latent / (1.0 - (_rows(sigma, latent) if sigma.ndim else sigma))


class X0(EPS):
    """The network predicts the latent."""

    def calculate_denoised(self, sigma, model_output, model_input):
        return model_output


class IMG_TO_IMG(X0):
    def calculate_input(self, sigma, noise):
        return noise


class COSMOS_RFLOW(EPS):
    """A flow whose noise is added; the network is shown the mixture."""

    def calculate_input(self, sigma, noise):
        sigma = _rows(sigma, noise)
        return noise * (1.0 - sigma / (sigma + 1.0))

    def calculate_denoised(self, sigma, model_output, model_input):
        share = _rows(sigma, model_output)
        share = share / (share + 1.0)
        return model_input * (1.0 - share) - model_output * share

    def noise_scaling(self, sigma, noise, latent_image, max_denoise=False):
        return super().noise_scaling(sigma, noise, latent_image)


class _Range(torch.nn.Module):
    """One of the server's noise ranges, by ComfyUI's names."""

    sigma_data = 1.0
    sigma_min = property(lambda self: self.sigmas[0])
    sigma_max = property(lambda self: self.sigmas[-1])

    def _take(self, noise_range):
        self.noise_range = noise_range
        self.register_buffer("sigmas", noise_range.sigmas)

    def timestep(self, sigma):
        return self.noise_range.timestep(sigma)

    def sigma(self, timestep):
        return self.noise_range.sigma(timestep)

    def percent_to_sigma(self, percent):
        return self.noise_range.percent_to_sigma(percent)


def _settings(model_config):
    return getattr(model_config, "sampling_settings", None) or {}


class ModelSamplingDiscrete(_Range):
    """Stable Diffusion's table of steps."""

    def __init__(self, model_config=None, zsnr=None):
        super().__init__()
        self.zsnr = zsnr
        self.set_sigmas(discrete(model_config, bool(zsnr)).sigmas)

    def set_sigmas(self, sigmas):
        self._take(table(sigmas))
        self.register_buffer("log_sigmas", self.noise_range.log_sigmas)
        self.num_timesteps = len(sigmas)


class ModelSamplingDiscreteEDM(ModelSamplingDiscrete):
    def timestep(self, sigma):
        return Continuous(self.sigmas).timestep(sigma)

    def sigma(self, timestep):
        return Continuous(self.sigmas).sigma(timestep)


class ModelSamplingContinuousEDM(_Range):
    """A range without steps."""

    angle = False

    def __init__(self, model_config=None):
        super().__init__()
        given = {"sigma_min": 0.002, "sigma_max": 120.0, "sigma_data": 1.0, **_settings(model_config)}
        self.set_parameters(*(given[name] for name in ("sigma_min", "sigma_max", "sigma_data")))

    def set_parameters(self, sigma_min, sigma_max, sigma_data):
        self.sigma_data = sigma_data
        self._take(self._between(sigma_min, sigma_max))
        self.register_buffer("log_sigmas", self.sigmas.log())

    def _between(self, low, high):
        return continuous(low, high, self.angle)


class ModelSamplingContinuousV(ModelSamplingContinuousEDM):
    angle = True


class ModelSamplingCosmosRFlow(ModelSamplingContinuousEDM):
    """A flow's time over such a range."""

    def _between(self, low, high):
        return continuous_flow(low, high)


def flux_time_shift(mu, sigma, t):
    return math.exp(mu) / (math.exp(mu) + (1 / t - 1) ** sigma)


class ModelSamplingDiscreteFlow(_Range):
    """SD3's flow, shifted by resolution."""

    def __init__(self, model_config=None):
        super().__init__()
        given = _settings(model_config)
        self.set_parameters(given.get("shift", 1.0), multiplier=given.get("multiplier", 1000))

    def set_parameters(self, shift=1.0, timesteps=1000, multiplier=1000):
        self.shift, self.multiplier = shift, multiplier
        self._take(shifted_flow(shift, multiplier, timesteps))


class ModelSamplingFlux(_Range):
    """Flux's flow, shifted by resolution."""

    def __init__(self, model_config=None):
        super().__init__()
        self.set_parameters(_settings(model_config).get("shift", 1.15))

    def set_parameters(self, shift=1.15, timesteps=10000):
        self.shift = shift
        self._take(exponential_flow(shift, timesteps))


class StableCascadeSampling(ModelSamplingDiscrete): ...
