"""ComfyUI's `comfy.sample`: noise, and runs of whole settings."""

import numpy as np  # noqa: F401  # packs reach it through here

import comfy.samplers
from comfy_compat.sampling import fix_empty_latent_channels, prepare_noise  # noqa: F401


def prepare_sampling(model, noise_shape, positive, negative, noise_mask):
    """(model, positive, negative, mask, models beside it): the engine loads what it needs."""
    return model, positive, negative, noise_mask, []


def cleanup_additional_models(models):
    """There is nothing to clean up."""


def prepare_mask(noise_mask, shape, device):
    import comfy.utils

    return comfy.utils.reshape_mask(noise_mask, shape).to(device)


def sample(
    model,
    noise,
    steps,
    cfg,
    sampler_name,
    scheduler,
    positive,
    negative,
    latent_image,
    denoise=1.0,
    disable_noise=False,
    start_step=None,
    last_step=None,
    force_full_denoise=False,
    noise_mask=None,
    sigmas=None,
    callback=None,
    disable_pbar=False,
    seed=None,
):
    """A run: the samples, in the latent's units."""
    chosen = comfy.samplers.KSampler(
        model, steps, "cpu", sampler_name, scheduler, denoise, getattr(model, "model_options", {})
    )
    return chosen.sample(
        noise,
        positive,
        negative,
        cfg,
        latent_image,
        start_step,
        last_step,
        force_full_denoise,
        noise_mask,
        sigmas,
        callback,
        disable_pbar,
        seed,
    )


def sample_custom(
    model,
    noise,
    cfg,
    sampler,
    sigmas,
    positive,
    negative,
    latent_image,
    noise_mask=None,
    callback=None,
    disable_pbar=False,
    seed=None,
):
    """A run with a SAMPLER along sigmas: the samples, in the latent's units."""
    return comfy.samplers.sample(
        model,
        noise,
        positive,
        negative,
        cfg,
        "cpu",
        sampler,
        sigmas,
        getattr(model, "model_options", {}),
        latent_image,
        noise_mask,
        callback,
        disable_pbar,
        seed,
    )
