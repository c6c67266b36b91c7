"""ComfyUI's `comfy_extras.nodes_model_advanced`: its nodes that the server has, as classes."""

from comfy_compat.builtin_classes import classes_of

globals().update(classes_of(__name__, bridge))
import comfy.model_sampling  # noqa: E402
import torch  # noqa: E402


class LCM(comfy.model_sampling.EPS):
    """The consistency function of arXiv:2310.04378."""

    def calculate_denoised(self, sigma, model_output, model_input):
        timestep = self.timestep(sigma).view(sigma.shape[:1] + (1,) * (model_output.ndim - 1))
        sigma = sigma.view(sigma.shape[:1] + (1,) * (model_output.ndim - 1))
        scaled = timestep * 10.0
        kept, part = 0.25 / (scaled**2 + 0.25), scaled / (scaled**2 + 0.25) ** 0.5
        return part * (model_input - model_output * sigma) + kept * model_input


class ModelSamplingDiscreteDistilled(comfy.model_sampling.ModelSamplingDiscrete):
    """The steps that a consistency model was distilled for."""

    original_timesteps = 50

    def __init__(self, model_config=None, zsnr=None):
        super().__init__(model_config, zsnr)
        self.skip_steps = self.num_timesteps // self.original_timesteps
        last = self.num_timesteps - 1
        places = [last - i * self.skip_steps for i in reversed(range(self.original_timesteps))]
        self.set_sigmas(self.sigmas[torch.tensor(places)])

    def timestep(self, sigma):
        return super().timestep(sigma) * self.skip_steps + (self.skip_steps - 1)

    def sigma(self, timestep):
        return super().sigma((timestep.float() - (self.skip_steps - 1)) / self.skip_steps)
