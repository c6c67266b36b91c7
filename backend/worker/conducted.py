"""Runs that functions of node packs conduct: in place of the server's sampler runs what they bring."""

import dataclasses
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from backend.guiders import ForeignGuider, ForeignNoise, ForeignSampler, GivenNoise, Noise, Sampler, Schedule
from backend.ops import Denoise
from backend.patches import DifferentialMask, Foreign, ModelPatch
from backend.sampling.foreign import (
    Asked,
    ForeignCode,
    Setup,
    Shaded,
    codes_of,
    level_maker,
    noise_maker,
    unpacked,
)
from backend.sampling.noise import initial_noise
from backend.sampling.prediction import Prediction
from backend.sampling.run import Outcome, Run, Shades
from backend.sampling.sigmas import Levels
from backend.sampling.steer import conditions_of
from backend.types import Latent
from backend.values import frozen
from backend.worker.foreign_host import RunHost
from backend.worker.inverted import inverted
from backend.worker.predictions import SAMPLING
from backend.worker.traced import Finish


@frozen(eq=False)
class Start:
    """What a run starts from: the op's latent, the noise, the levels, the mask as the latent."""

    op: Denoise
    latent: Latent
    noise: Tensor
    sigmas: Tensor
    mask: Tensor | None


def conducted(start: Start, host: RunHost, codes: Sequence[ForeignCode]) -> tuple[Run, Finish]:
    """The run by the first of `codes` that conducts one, and what becomes of its outcome."""
    op, target = start.op, host.target
    own = op.sampler if isinstance(op.sampler, Sampler) else Sampler("")
    setup = Setup(
        start.noise.to(target.device),
        start.latent.samples.to(target.device),
        start.sigmas.to(target.device, torch.float32),
        None if start.mask is None else start.mask.to(target.device),
        op.noise.seed,
        tuple(conditions_of(op.guider)),
        float(getattr(op.guider, "cfg", 1.0)),
        own.name,
        own.options,
        _shaded(start, host),
    )
    conductor = next(code for code in codes if code.conducts)

    def conduct(ask: Asked) -> Outcome:
        ended = conductor.conduct(host, ask, setup, codes)
        return Outcome(ended.samples, ended.denoised)

    def finish(outcome: Outcome) -> tuple[Latent, ...]:
        last = outcome.denoised
        denoised = outcome.samples if last is None else target.format.from_model(last.float())
        ends = (outcome.samples, denoised)
        samples, estimate = (dataclasses.replace(start.latent, samples=x.float().cpu()) for x in ends)
        return samples, estimate

    return inverted(conduct), finish


def _shaded(start: Start, host: RunHost) -> Shaded | None:
    """What a mask with shades is at a noise level, where a node made it one."""
    strength = differential(start.op.guider.model.patches)
    if strength is None:
        return None
    shades = Shades(strength, start.sigmas)
    return lambda mask, sigma: shades.mask(mask, sigma, host.prediction)


def codes_in(op: Denoise) -> tuple[ForeignCode, ...]:
    """The functions of node packs that take part in a run: its model's, its sampler's, its guider's."""
    parts = (part for part in (op.sampler, op.guider) if isinstance(part, ForeignSampler | ForeignGuider))
    return (*codes_of(op.guider.model.patches), *(unpacked(part.code) for part in parts))


def others_in(patches: Sequence[ModelPatch]) -> tuple[str, ...]:
    """The kinds of patches that shared passes alone honour."""
    return tuple(type(patch).__name__ for patch in patches if not isinstance(patch, (Foreign, *SAMPLING)))


def differential(patches: Sequence[ModelPatch]) -> float | None:
    """How strongly the noise mask's shades are times; None: not at all. The last patch of it decides."""
    return next((p.strength for p in reversed(patches) if isinstance(p, DifferentialMask)), None)


def noise_of(noise: Noise | GivenNoise | ForeignNoise, latent: Latent) -> Tensor:
    """The initial noise for a latent: float32, as its samples."""
    match noise:
        case GivenNoise(values=values):
            return values.float()
        case ForeignNoise(code=code):
            given: dict[str, object] = {"samples": latent.samples, **latent.extra}
            if latent.noise_mask is not None:
                given["noise_mask"] = latent.noise_mask
            if latent.batch_index is not None:
                given["batch_index"] = list(latent.batch_index)
            return noise_maker(code).make_noise(given).float()
        case Noise(enabled=False):
            return torch.zeros_like(latent.samples)
        case Noise(seed=seed):
            return initial_noise(latent.samples.shape, seed, latent.batch_index)


def levels_of(schedule: object, prediction: Prediction) -> Levels | None:
    """A pack's own schedule for a model; None where it is one of the server's."""
    code = schedule.code if isinstance(schedule, Schedule) else None
    return None if code is None else partial(level_maker(code).make_levels, prediction)
