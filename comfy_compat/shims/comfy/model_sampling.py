"""ComfyUI's `comfy.model_sampling`: predictions to mix with noise ranges, as packs do."""

import math

import torch

from comfy_compat.model_sampling import ModelSampling, discrete  # noqa: F401


def rescale_zero_terminal_snr_sigmas(sigmas):
    """The range stretched until its last step holds no signal: arXiv:2305.08891, Alg. 1."""
    roots = (1 / (sigmas * sigmas + 1)).sqrt()
    first, last = roots[0].clone(), roots[-1].clone()
    alphas = ((roots - last) * (first / (first - last))) ** 2
    alphas[-1] = 4.8973451890853435e-08
    return ((1 - alphas) / alphas) ** 0.5


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


class ModelSamplingDiscrete(torch.nn.Module):
    """Stable Diffusion's table of steps."""

    def __init__(self, model_config=None, zsnr=None):
        super().__init__()
        self.sigma_data = 1.0
        self.num_timesteps = 1000
        self.zsnr = zsnr
        self.set_sigmas(discrete(model_config, bool(zsnr)).sigmas)

    def set_sigmas(self, sigmas):
        self.register_buffer("sigmas", sigmas.float())
        self.register_buffer("log_sigmas", sigmas.log().float())
        self.num_timesteps = len(sigmas)

    @property
    def sigma_min(self):
        return self.sigmas[0]

    @property
    def sigma_max(self):
        return self.sigmas[-1]

    def timestep(self, sigma):
        distance = sigma.log().to(self.log_sigmas.device) - self.log_sigmas[:, None]
        return distance.abs().argmin(dim=0).view(sigma.shape).to(sigma.device)

    def sigma(self, timestep):
        at = timestep.float().to(self.log_sigmas.device).clamp(0, len(self.sigmas) - 1)
        low, high, weight = at.floor().long(), at.ceil().long(), at.frac()
        mixed = (1 - weight) * self.log_sigmas[low] + weight * self.log_sigmas[high]
        return mixed.exp().to(timestep.device)

    def percent_to_sigma(self, percent):
        if percent <= 0.0:
            return 999999999.9
        if percent >= 1.0:
            return 0.0
        return self.sigma(torch.tensor((1.0 - percent) * 999.0)).item()


class ModelSamplingDiscreteEDM(ModelSamplingDiscrete):
    def timestep(self, sigma):
        return 0.25 * sigma.log()

    def sigma(self, timestep):
        return (timestep / 0.25).exp()


class ModelSamplingContinuousEDM(torch.nn.Module):
    """A range without steps."""

    def __init__(self, model_config=None):
        super().__init__()
        settings = getattr(model_config, "sampling_settings", None) or {}
        self.set_parameters(
            settings.get("sigma_min", 0.002),
            settings.get("sigma_max", 120.0),
            settings.get("sigma_data", 1.0),
        )

    def set_parameters(self, sigma_min, sigma_max, sigma_data):
        self.sigma_data = sigma_data
        sigmas = torch.linspace(math.log(sigma_min), math.log(sigma_max), 1000).exp()
        self.register_buffer("sigmas", sigmas)
        self.register_buffer("log_sigmas", sigmas.log())

    @property
    def sigma_min(self):
        return self.sigmas[0]

    @property
    def sigma_max(self):
        return self.sigmas[-1]

    def timestep(self, sigma):
        return 0.25 * sigma.log()

    def sigma(self, timestep):
        return (timestep / 0.25).exp()

    def percent_to_sigma(self, percent):
        if percent <= 0.0:
            return 999999999.9
        if percent >= 1.0:
            return 0.0
        low, high = math.log(self.sigma_min), math.log(self.sigma_max)
        return math.exp((high - low) * (1.0 - percent) + low)


class ModelSamplingContinuousV(ModelSamplingContinuousEDM):
    def timestep(self, sigma):
        return sigma.atan() / math.pi * 2

    def sigma(self, timestep):
        return (timestep * math.pi / 2).tan()


def time_snr_shift(alpha, t):
    return t if alpha == 1.0 else alpha * t / (1 + (alpha - 1) * t)


def flux_time_shift(mu, sigma, t):
    return math.exp(mu) / (math.exp(mu) + (1 / t - 1) ** sigma)


class ModelSamplingDiscreteFlow(torch.nn.Module):
    """SD3's flow, shifted by resolution."""

    def __init__(self, model_config=None):
        super().__init__()
        settings = getattr(model_config, "sampling_settings", None) or {}
        self.set_parameters(settings.get("shift", 1.0), multiplier=settings.get("multiplier", 1000))

    def set_parameters(self, shift=1.0, timesteps=1000, multiplier=1000):
        self.shift, self.multiplier = shift, multiplier
        steps = torch.arange(1, timesteps + 1, 1) / timesteps
        self.register_buffer("sigmas", self.sigma(steps * multiplier))

    @property
    def sigma_min(self):
        return self.sigmas[0]

    @property
    def sigma_max(self):
        return self.sigmas[-1]

    def timestep(self, sigma):
        return sigma * self.multiplier

    def sigma(self, timestep):
        return time_snr_shift(self.shift, timestep / self.multiplier)

    def percent_to_sigma(self, percent):
        if percent <= 0.0:
            return 1.0
        return 0.0 if percent >= 1.0 else time_snr_shift(self.shift, 1.0 - percent)


class ModelSamplingFlux(torch.nn.Module):
    """Flux's flow, shifted by resolution."""

    def __init__(self, model_config=None):
        super().__init__()
        settings = getattr(model_config, "sampling_settings", None) or {}
        self.set_parameters(settings.get("shift", 1.15))

    def set_parameters(self, shift=1.15, timesteps=10000):
        self.shift = shift
        self.register_buffer("sigmas", self.sigma(torch.arange(1, timesteps + 1, 1) / timesteps))

    @property
    def sigma_min(self):
        return self.sigmas[0]

    @property
    def sigma_max(self):
        return self.sigmas[-1]

    def timestep(self, sigma):
        return sigma

    def sigma(self, timestep):
        return flux_time_shift(self.shift, 1.0, timestep)

    def percent_to_sigma(self, percent):
        if percent <= 0.0:
            return 1.0
        return 0.0 if percent >= 1.0 else flux_time_shift(self.shift, 1.0, 1.0 - percent)


class StableCascadeSampling(ModelSamplingDiscrete): ...
