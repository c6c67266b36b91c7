"""From a Denoise op and a loaded model to a run: its sigmas, noise, latent and conditions."""

import dataclasses

from torch import Tensor

from backend.errors import UnsupportedOption
from backend.guiders import Sampler, Schedule
from backend.models.conditioning import rows_of
from backend.models.family import Layout
from backend.models.latent import LatentFormat
from backend.ops import Denoise, TracedDenoise
from backend.sampling.noise import leftover_generator
from backend.sampling.prediction import Prediction
from backend.sampling.run import Outcome, Run, fit_mask, sample
from backend.sampling.sigmas import schedule_sigmas
from backend.sampling.steer import conditions_of, sides_of, stand_in
from backend.types import Latent, OpKey
from backend.worker.conditions import Networks, Setting, resolve
from backend.worker.conducted import (
    Start,
    codes_in,
    conducted,
    differential,
    levels_of,
    noise_of,
    others_in,
)
from backend.worker.denoise import Denoising, Target, finisher
from backend.worker.foreign_host import RunHost
from backend.worker.predictions import timed
from backend.worker.traced import Finish, traced
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
    noise = noise_of(op.noise, latent)
    mask = None if latent.noise_mask is None else fit_mask(latent.noise_mask, samples.shape)
    initial = in_model_units(samples, target.format)
    most = float(sigmas.max()) if len(sigmas) else 0.0
    setting = Setting(layout, target.prediction.range, initial, mask, networks, most)
    guider, patches = stand_in(op.guider), op.guider.model.patches
    guider = dataclasses.replace(guider, model=timed(layout, guider.model))
    sides = resolve(conditions_of(op.guider), setting, sides_of(op.guider))
    # ComfyUI makes random choices within a model with the generator that the initial noise came from
    generator = leftover_generator(noise.to(target.device), op.noise.seed)
    inside = within(patches, sides, initial, networks)
    target = dataclasses.replace(target, generator=generator, within=inside)
    start, codes = Start(op, latent, noise, sigmas, mask), codes_in(op)
    if len(sigmas) and any(code.conducts for code in codes):
        host = RunHost(key, target, sides, guider.model, others_in(patches))
        run, finish = conducted(start, host, codes)
    else:
        run, finish = sampled(start, initial, target)
    steps = max(len(sigmas) - 1, 0)
    if isinstance(op, TracedDenoise):
        run, finish = traced(run, finish, latent, steps)
    return Denoising(key, run, target, (guider, sides), steps, finish)


def sampled(start: Start, initial: Tensor, target: Target) -> tuple[Run, Finish]:
    """A run by the server's own sampler. initial: the latent in model units."""
    op, latent, sigmas, device = start.op, start.latent, start.sigmas, target.device
    if not len(sigmas):
        return _nothing(initial), lambda outcome: (latent, latent)
    assert isinstance(op.sampler, Sampler)
    run = sample(
        initial.to(device),
        start.noise.to(device),
        sigmas,
        sampler=op.sampler.name,
        prediction=target.prediction,
        seed=op.noise.seed,
        mask=None if start.mask is None else start.mask.to(device),
        differential=differential(op.guider.model.patches),
        options=op.sampler.options,
    )
    return run, finisher(latent, target.format)


def _nothing(latent: Tensor) -> Run:
    """A run without levels."""
    yield from ()
    return Outcome(latent, None)


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
        name = op.sampler.name if isinstance(op.sampler, Sampler) else ""
        return schedule_sigmas(op.sigmas, prediction.range, name, levels_of(op.sigmas, prediction))
    return op.sigmas  # type: ignore[return-value]  # its refs are replaced
