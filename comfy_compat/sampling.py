"""Sampling as packs ask for it: SAMPLER and NOISE values, and runs through the shared engine."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from backend.errors import UnsupportedOption
from backend.guiders import (
    ForeignNoise,
    ForeignSampler,
    GivenNoise,
    Guider,
    Noise,
    Sampler,
    Schedule,
)
from backend.ops import Denoise, ModelSigmas, TracedDenoise
from backend.sampling.noise import initial_noise
from backend.sampling.samplers import SAMPLERS
from backend.sampling.sigmas import schedule_sigmas
from backend.types import Latent
from comfy_compat.engine import computed, outputs
from comfy_compat.foreign import Part
from comfy_compat.models import model_reference, owner, part_code, unpickled
from comfy_compat.sampler_run import FunctionSampler, NamedSampler, starts_from_noise

_SEED = "tessera_seed"  # where a noise tensor keeps what it was drawn from


# -- SAMPLER ---------------------------------------------------------------------------------------


class SamplerBase:
    """Base of SAMPLER values. Packs may subclass it with a `sample` of their own."""

    def sample(self, *args: Any, **kwargs: Any) -> Tensor:
        raise UnsupportedOption(
            "sampler.sample", "outside of a run", "Use comfy.samplers.sample or a guider."
        )

    def reference(self) -> Sampler | ForeignSampler:
        """What a run is given for it. Raises: Unpackable."""
        name = type(self).__name__
        return ForeignSampler(name, part_code(Part(sampler=self), f"The sampler {name}"), owner())

    def max_denoise(self, model_wrap: Any, sigmas: Tensor) -> bool:
        return starts_from_noise(model_wrap, sigmas)


class KSAMPLER(FunctionSampler, SamplerBase):
    """A sampler by name with options, or a pack's own function."""

    def reference(self) -> Sampler | ForeignSampler:
        """The server's sampler behind it, or the pack's function. Raises: Unpackable."""
        name = getattr(self.sampler_function, "sampler", None)
        if name is None or type(self).sample is not KSAMPLER.sample:
            return super().reference()
        return Sampler(name, tuple(sorted(self.extra_options.items())))


def sampler_object(name: str) -> KSAMPLER:
    """A SAMPLER by the server's name for it."""
    return ksampler(name)


def ksampler(
    sampler_name: str,
    extra_options: Mapping[str, Any] | None = None,
    inpaint_options: Mapping[str, Any] | None = None,
) -> KSAMPLER:
    """A SAMPLER by name, with options. Raises: UnsupportedOption."""
    if sampler_name not in SAMPLERS:
        raise UnsupportedOption("sampler", sampler_name, f"Use one of {', '.join(SAMPLERS)}.")
    return KSAMPLER(NamedSampler(sampler_name), extra_options, inpaint_options)


def sampler_of(reference: Sampler | ForeignSampler) -> SamplerBase:
    """The handle of a reference."""
    if isinstance(reference, ForeignSampler):
        sampler: SamplerBase = unpickled(reference.code).sampler
        return sampler
    return KSAMPLER(NamedSampler(reference.name), dict(reference.options))


# -- NOISE -----------------------------------------------------------------------------------------


class Noise_EmptyNoise:
    """No noise; the seed drives samplers that add some."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def generate_noise(self, input_latent: Mapping[str, Any]) -> Tensor:
        latent = input_latent["samples"]
        return torch.zeros(latent.shape, dtype=latent.dtype, layout=latent.layout, device="cpu")


class Noise_RandomNoise:
    """Noise from a seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def generate_noise(self, input_latent: Mapping[str, Any]) -> Tensor:
        return prepare_noise(input_latent["samples"], self.seed, input_latent.get("batch_index"))


def noise_object(reference: Noise | ForeignNoise) -> Any:
    """The handle of a reference."""
    if isinstance(reference, ForeignNoise):
        return unpickled(reference.code).noise
    return Noise_RandomNoise(reference.seed) if reference.enabled else Noise_EmptyNoise(reference.seed)


def noise_reference(value: Any) -> Any:
    """A NOISE value as the server's; what is none stays what it is. Raises: Unpackable."""
    if type(value) is Noise_RandomNoise:
        return Noise(value.seed)
    if type(value) is Noise_EmptyNoise:
        return Noise(value.seed, enabled=False)
    if not callable(getattr(value, "generate_noise", None)):
        return value
    code = part_code(Part(noise=value), f"The noise {type(value).__name__}")
    return ForeignNoise(code, owner(), int(getattr(value, "seed", 0) or 0))


def prepare_noise(latent_image: Tensor, seed: int, noise_inds: Sequence[int] | None = None) -> Tensor:
    """Noise for a latent [B, C, ...], on the CPU."""
    inds = None if noise_inds is None else [int(i) for i in noise_inds]
    noise = initial_noise(latent_image.shape, seed, inds, latent_image.dtype)
    setattr(noise, _SEED, seed)
    return noise


def noise_of_tensor(noise: Tensor, seed: int | None) -> Noise | GivenNoise:
    """What a run is given for a noise tensor."""
    if seed is None:
        seed = getattr(noise, _SEED, 0)
    if not noise.any():
        return Noise(seed, enabled=False)
    return GivenNoise(noise.detach().cpu().float(), seed)


# -- runs ------------------------------------------------------------------------------------------


def ran(
    guider: Guider,
    latent: Latent,
    noise: Tensor,
    sampler: Any,
    sigmas: Tensor | Schedule,
    callback: Any = None,
    seed: int | None = None,
) -> Tensor:
    """A run through the engine. callback is told of every step once the run is over: (step, estimate, what
    the step began with, steps), in the model's units.
    """
    reference = sampler.reference()
    levels = sigmas if isinstance(sigmas, Schedule) else sigmas.detach().cpu().float()
    kind = Denoise if callback is None else TracedDenoise
    (samples,), _, *traces = outputs(kind(guider, latent, noise_of_tensor(noise, seed), reference, levels))
    assert isinstance(samples, Latent)
    for (trace,) in traces:
        assert isinstance(trace, Latent)
        steps = levels.steps if isinstance(levels, Schedule) else max(1, len(levels) - 1)
        for step, (estimate, begun) in enumerate(trace.samples, steps - len(trace.samples)):
            callback(step, estimate, begun, steps)
    return samples.samples


def model_sigmas(model: Any, scheduler: str, steps: int, denoise: float = 1.0) -> Tensor:
    """The sigmas of a model under a schedule."""
    made = computed(ModelSigmas(model_reference(model), Schedule(scheduler, steps, denoise)))
    assert isinstance(made, Tensor)
    return made


def sigmas_of_range(model_sampling: Any, scheduler_name: str, steps: int) -> Tensor:
    """ComfyUI's `calculate_sigmas`, for any object with a noise range."""
    prediction = getattr(model_sampling, "prediction", None)
    if prediction is None:
        raise UnsupportedOption(
            "model_sampling", type(model_sampling).__name__, "Use that of a loaded model."
        )
    return schedule_sigmas(Schedule(scheduler_name, steps), prediction.range, "")


def fix_empty_latent_channels(model: Any, latent_image: Tensor) -> Tensor:
    """An empty latent with as many channels and axes as the model wants."""
    format = model.get_model_object("latent_format")
    if latent_image.any():
        return latent_image
    if latent_image.shape[1] != format.latent_channels:
        sizes = [latent_image.shape[0], format.latent_channels, *latent_image.shape[2:]]
        latent_image = latent_image.new_zeros(sizes)
    if format.latent_dimensions == 3 and latent_image.ndim == 4:
        latent_image = latent_image.unsqueeze(2)
    return latent_image


def takes(function: Any, name: str) -> bool:
    """Whether a function has a parameter of that name."""
    return name in inspect.signature(function).parameters
