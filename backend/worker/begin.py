"""From a Denoise op and a loaded model to a run: its sigmas, noise, latent and conditions."""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from backend.errors import UnsupportedOption
from backend.guiders import GivenNoise, Schedule
from backend.models.conditioning import rows_of
from backend.models.family import Layout
from backend.models.latent import LatentFormat
from backend.ops import Denoise
from backend.patches import DifferentialMask, ModelPatch
from backend.sampling.noise import initial_noise, leftover_generator
from backend.sampling.prediction import Prediction
from backend.sampling.run import fit_mask, sample
from backend.sampling.sigmas import schedule_sigmas
from backend.sampling.steer import conditions_of
from backend.types import Latent, OpKey
from backend.worker.conditions import Networks, Setting, resolve
from backend.worker.denoise import Denoising, Target, finisher
from backend.worker.within import within


def begin(key: OpKey, op: Denoise, target: Target, layout: Layout, networks: Networks) -> Denoising:
    """Start a run of `op`, whose refs are values by now. A run without sigmas has its result at once.

    Raises: UnsupportedOption for an unknown sampler or scheduler, an option that can't be honoured, or a
    latent that is not the model's.
    """
    latent: Latent = op.latent  # type: ignore[assignment]  # its refs are replaced
    samples = fitted(latent.samples.float(), target.format)
    latent = dataclasses.replace(latent, samples=samples)
    sigmas = sigmas_of(op, target.prediction)
    finish = finisher(latent, target.format) if len(sigmas) else lambda outcome: (latent, latent)
    noise = torch.zeros_like(samples)
    if isinstance(op.noise, GivenNoise):
        noise = op.noise.values.float()
    elif op.noise.enabled:
        noise = initial_noise(samples.shape, op.noise.seed, latent.batch_index)
    mask = None if latent.noise_mask is None else fit_mask(latent.noise_mask, samples.shape)
    initial = in_model_units(samples, target.format)
    most = float(sigmas.max()) if len(sigmas) else 0.0
    setting = Setting(layout, target.prediction.range, initial, mask, networks, most)
    guider = op.guider
    sides = resolve(conditions_of(guider), setting)
    run = sample(
        initial.to(target.device),
        noise.to(target.device),
        sigmas,
        sampler=op.sampler.name,
        prediction=target.prediction,
        seed=op.noise.seed,
        mask=None if mask is None else mask.to(target.device),
        differential=_differential(guider.model.patches),
        options=op.sampler.options,
    )
    # ComfyUI makes random choices within a model with the generator that the initial noise came from
    generator = leftover_generator(noise.to(target.device), op.noise.seed)
    inside = within(guider.model.patches, sides, initial, networks)
    target = dataclasses.replace(target, generator=generator, within=inside)
    return Denoising(key, run, target, (guider, sides), max(len(sigmas) - 1, 0), finish)


def _differential(patches: Sequence[ModelPatch]) -> float | None:
    """How strongly the noise mask's shades are times; None: not at all. The last patch of it decides."""
    return next((p.strength for p in reversed(patches) if isinstance(p, DifferentialMask)), None)


def fitted(samples: Tensor, format: LatentFormat) -> Tensor:
    """A latent with the channels of the model, and frames where it has them.

    An empty one takes any number of channels, another must have them. Raises: UnsupportedOption.
    """
    if format.dimensions == 3 and samples.ndim == 4:
        samples = samples.unsqueeze(2)
    if samples.shape[1] == format.channels:
        return samples
    if not samples.any():
        return rows_of(samples.movedim(1, 0), format.channels).movedim(0, 1)
    raise UnsupportedOption(
        "latent_image",
        f"{samples.shape[1]} channels",
        f"This model's latents have {format.channels}: encode the image with the VAE that belongs to it.",
    )


def in_model_units(samples: Tensor, format: LatentFormat) -> Tensor:
    """A latent in the units that are sampled in; an empty one stays zero, whatever the shift."""
    return format.to_model(samples) if samples.any() else samples


def sigmas_of(op: Denoise, prediction: Prediction) -> Tensor:
    """The sigmas that the op runs, given or by name."""
    if isinstance(op.sigmas, Schedule):
        return schedule_sigmas(op.sigmas, prediction.range, op.sampler.name)
    return op.sigmas  # type: ignore[return-value]  # its refs are replaced
