"""ComfyUI's `comfy.samplers`: lists of samplers and schedules, SAMPLER and GUIDER values, runs.

Inside of functions that run with a model (in a worker), `calc_cond_batch` evaluates its network.
"""

import sys
from functools import partial
from typing import Any, NamedTuple

import torch

from backend.errors import UnsupportedOption
from backend.guiders import CfgGuider
from backend.sampling.names import SAMPLER_NAMES as _SAMPLERS
from backend.sampling.names import SCHEDULER_NAMES as _SCHEDULERS
from backend.types import Latent
from comfy.k_diffusion import sampling as k_diffusion_sampling
from comfy_compat.conditions import conditioning_of
from comfy_compat.foreign import Part, handled
from comfy_compat.guidance import calc_cond_batch, cfg_function, sampling_function  # noqa: F401
from comfy_compat.guiders import CFGGuider  # noqa: F401
from comfy_compat.models import model_reference, part_code
from comfy_compat.sampler_run import MaskedModel as KSamplerX0Inpaint  # noqa: F401
from comfy_compat.sampler_run import NamedSampler
from comfy_compat.sampling import KSAMPLER, model_sigmas, ran, sigmas_of_range
from comfy_compat.sampling import SamplerBase as Sampler  # noqa: F401
from comfy_compat.sampling import ksampler as _named

SAMPLER_NAMES = list(_SAMPLERS)
SCHEDULER_NAMES = list(_SCHEDULERS)
KSAMPLER_NAMES = [name for name in SAMPLER_NAMES if name not in ("ddim", "uni_pc", "uni_pc_bh2")]


class SchedulerHandler(NamedTuple):
    """A schedule: a function of a `model_sampling` and steps, or of n, sigma_min and sigma_max."""

    handler: Any
    use_ms: bool = True


def _known(name, model_sampling, steps):
    return sigmas_of_range(model_sampling, name, steps)


SCHEDULER_HANDLERS = {name: SchedulerHandler(partial(_known, name)) for name in SCHEDULER_NAMES}


def ksampler(sampler_name, extra_options={}, inpaint_options={}):
    """A SAMPLER by name: the server's, or what a pack has put into `k_diffusion_sampling`."""
    own = getattr(k_diffusion_sampling, f"sample_{sampler_name}", None)
    if own is None or isinstance(own, NamedSampler):
        return _named(sampler_name, extra_options, inpaint_options)
    return KSAMPLER(own, extra_options, inpaint_options)


def sampler_object(name):
    return ksampler(name)


def calculate_sigmas(model_sampling, scheduler_name, steps):
    """The sigmas of a noise range under a schedule."""
    if scheduler_name not in SCHEDULER_HANDLERS:
        raise UnsupportedOption("scheduler", scheduler_name, f"Use one of {', '.join(SCHEDULER_HANDLERS)}.")
    return handled(SCHEDULER_HANDLERS[scheduler_name], model_sampling, steps)


_calculate_sigmas = calculate_sigmas


class _ByName:
    """A schedule of a pack that has put its own function in the place of `calculate_sigmas`."""

    def __init__(self, function, name):
        self.function, self.name = function, name

    def __call__(self, model_sampling, steps):
        return self.function(model_sampling, self.name, steps)


def schedule_handler(name):
    """The handler of a schedule that a pack has added. Raises: UnsupportedOption where there is none."""
    if name in SCHEDULER_HANDLERS:
        return SCHEDULER_HANDLERS[name]
    function = sys.modules[__name__].calculate_sigmas  # a pack may have replaced it
    if function is _calculate_sigmas:
        raise UnsupportedOption("scheduler", name, "A pack must add a SchedulerHandler of that name.")
    return SchedulerHandler(_ByName(function, name))


def schedule_code(name):
    """The handler, packed for a worker. Raises: UnsupportedOption; Unpackable."""
    return part_code(Part(schedule=schedule_handler(name)), f"The schedule {name}")


class KSampler:
    """A run's settings, with its sigmas."""

    SCHEDULERS = SCHEDULER_NAMES
    SAMPLERS = SAMPLER_NAMES
    DISCARD_PENULTIMATE_SIGMA_SAMPLERS = {"dpm_2", "dpm_2_ancestral", "uni_pc", "uni_pc_bh2"}

    def __init__(self, model, steps, device, sampler=None, scheduler=None, denoise=None, model_options={}):
        self.model = model
        self.device = device
        self.scheduler = scheduler if scheduler in self.SCHEDULERS else self.SCHEDULERS[0]
        self.sampler = sampler if sampler in self.SAMPLERS else self.SAMPLERS[0]
        self.denoise = denoise
        self.model_options = model_options
        self.set_steps(steps, denoise)

    def set_steps(self, steps, denoise=None):
        self.steps = steps
        self._whole = 1.0 if denoise is None or denoise > 0.9999 else denoise
        self._sigmas = None

    @property
    def sigmas(self):
        if self._sigmas is None:
            self._sigmas = self.calculate_sigmas(self.steps)
        return self._sigmas

    @sigmas.setter
    def sigmas(self, value):
        self._sigmas = value

    def calculate_sigmas(self, steps):
        if self._whole <= 0.0:
            return torch.FloatTensor([])
        extra = int(self.sampler in self.DISCARD_PENULTIMATE_SIGMA_SAMPLERS)
        total = steps if self._whole == 1.0 else int(steps / self._whole)
        if self.scheduler in _SCHEDULERS:
            sigmas = model_sigmas(self.model, self.scheduler, total + extra)
        else:
            sampling = self.model.get_model_object("model_sampling")
            sigmas = handled(schedule_handler(self.scheduler), sampling, total + extra)
        if extra:
            sigmas = torch.cat([sigmas[:-2], sigmas[-1:]])
        return sigmas[-(steps + 1) :]

    def sample(
        self,
        noise,
        positive,
        negative,
        cfg,
        latent_image=None,
        start_step=None,
        last_step=None,
        force_full_denoise=False,
        denoise_mask=None,
        sigmas=None,
        callback=None,
        disable_pbar=False,
        seed=None,
    ):
        """A run: the samples."""
        sigmas = self.sigmas if sigmas is None else sigmas
        if last_step is not None and last_step < len(sigmas) - 1:
            sigmas = sigmas[: last_step + 1].clone()
            if force_full_denoise:
                sigmas[-1] = 0
        if start_step is not None:
            if start_step >= len(sigmas) - 1:
                return latent_image if latent_image is not None else torch.zeros_like(noise)
            sigmas = sigmas[start_step:]
        chosen = sampler_object(self.sampler)
        return sample(
            self.model,
            noise,
            positive,
            negative,
            cfg,
            self.device,
            chosen,
            sigmas,
            self.model_options,
            latent_image,
            denoise_mask,
            callback,
            disable_pbar,
            seed,
        )


def sample(
    model,
    noise,
    positive,
    negative,
    cfg,
    device,
    sampler,
    sigmas,
    model_options={},
    latent_image=None,
    denoise_mask=None,
    callback=None,
    disable_pbar=False,
    seed=None,
):
    """A run with guidance: the samples, in the latent's units."""
    start = torch.zeros_like(noise) if latent_image is None else latent_image
    guider = CfgGuider(
        model_reference(model), conditioning_of(positive), conditioning_of(negative), float(cfg)
    )
    latent = Latent(start.detach().cpu().float(), denoise_mask)
    return ran(guider, latent, noise, sampler, sigmas, callback, seed)


def calc_cond_uncond_batch(model, cond, uncond, x_in, timestep, model_options):
    return tuple(calc_cond_batch(model, [cond, uncond], x_in, timestep, model_options))


def process_conds(model, noise, conds, device, latent_image=None, denoise_mask=None, seed=None, **kwargs):
    """Conditions are resolved by the engine; here they stay as they are."""
    return conds


def get_area_and_mult(conds, x_in, timestep_in):
    """Areas are the engine's affair."""
    raise NotImplementedError("conditions' areas are resolved by the engine, before functions are called")


def cast_to_load_options(model_options, device=None, dtype=None):
    return model_options


def can_concat_cond(c1, c2):
    """Whether two conditions' inputs fit one batch."""
    if c1.input_x.shape != c2.input_x.shape or c1.conditioning.keys() != c2.conditioning.keys():
        return False
    return all(c1.conditioning[key].can_concat(c2.conditioning[key]) for key in c1.conditioning)


def cond_cat(c_list):
    """Several conditions' inputs as one batch."""
    return {key: c_list[0][key].concat([c[key] for c in c_list[1:]]) for key in c_list[0]}
