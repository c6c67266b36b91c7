"""Sampling as packs ask for it: SAMPLER, NOISE and GUIDER values, and runs through the shared engine."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from backend.errors import UnsupportedOption
from backend.guiders import (
    BasicGuider,
    CfgGuider,
    DualCfgGuider,
    GivenNoise,
    Guider,
    Noise,
    PerpNegGuider,
    Sampler,
    Schedule,
)
from backend.ops import Denoise, ModelSigmas
from backend.sampling.noise import initial_noise
from backend.sampling.samplers import SAMPLERS
from backend.sampling.sigmas import schedule_sigmas
from backend.types import Latent
from comfy_compat.conditions import conditioning_of
from comfy_compat.engine import computed, outputs
from comfy_compat.models import model_reference

_SEED = "tessera_seed"  # where a noise tensor keeps what it was drawn from


# -- SAMPLER ---------------------------------------------------------------------------------------


class SamplerBase:
    """Base of SAMPLER values."""

    def sample(self, *args: Any, **kwargs: Any) -> Tensor:
        raise UnsupportedOption(
            "sampler.sample", "outside of a run", "Use comfy.samplers.sample or a guider."
        )

    def max_denoise(self, model_wrap: Any, sigmas: Tensor) -> bool:
        top, first = float(model_wrap.inner_model.model_sampling.sigma_max), float(sigmas[0])
        return first > top or abs(top - first) <= 1e-5 * max(abs(top), abs(first))


class KSAMPLER(SamplerBase):
    """A sampler by name with options, or a pack's own function."""

    def __init__(
        self,
        sampler_function: Any,
        extra_options: Mapping[str, Any] | None = None,
        inpaint_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.sampler_function = sampler_function
        self.extra_options, self.inpaint_options = dict(extra_options or {}), dict(inpaint_options or {})

    @property
    def reference(self) -> Sampler:
        """The server's sampler behind it. Raises: UnsupportedOption for a function of the pack's own."""
        name = getattr(self.sampler_function, "sampler", None)
        if name is None:
            known = getattr(self.sampler_function, "__name__", str(self.sampler_function))
            remedy = (
                "Use one of the server's samplers: functions of a pack's own are not run in its step loop."
            )
            raise UnsupportedOption("sampler function", known, remedy)
        return Sampler(name, tuple(sorted(self.extra_options.items())))


class NamedSampler:
    """Stands for one of the server's samplers where ComfyUI has a function."""

    def __init__(self, name: str) -> None:
        self.sampler = name
        self.__name__ = f"sample_{name}"

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        raise UnsupportedOption(self.__name__, "outside of a run", "Use it through comfy.samplers.KSAMPLER.")


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


def sampler_of(reference: Sampler) -> KSAMPLER:
    """The handle of a reference."""
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


def noise_object(reference: Noise) -> Noise_EmptyNoise | Noise_RandomNoise:
    """The handle of a reference."""
    return Noise_RandomNoise(reference.seed) if reference.enabled else Noise_EmptyNoise(reference.seed)


def noise_reference(value: Any) -> Any:
    """A NOISE value as the server's; one of a pack's own making stays what it is."""
    if type(value) is Noise_RandomNoise:
        return Noise(value.seed)
    return Noise(value.seed, enabled=False) if type(value) is Noise_EmptyNoise else value


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


# -- GUIDER ----------------------------------------------------------------------------------------


class CFGGuider:
    """A GUIDER: a model steered by conditions. Packs subclass it; what they override in Python is not run."""

    def __init__(self, model_patcher: Any) -> None:
        self.model_patcher = model_patcher
        self.model_options = getattr(model_patcher, "model_options", {})
        self.original_conds: dict[str, Any] = {}
        self.conds: dict[str, Any] = {}
        self.cfg = 1.0
        self.inner_model: Any = None

    def set_conds(self, positive: Any, negative: Any) -> None:
        self.inner_set_conds({"positive": positive, "negative": negative})

    def set_cfg(self, cfg: float) -> None:
        self.cfg = cfg

    def inner_set_conds(self, conds: Mapping[str, Any]) -> None:
        """CONDITIONING by side."""
        self.original_conds.update(conds)

    def reference(self) -> Guider:
        """The server's guider that does the same. Raises: UnsupportedOption where a pack's does more."""
        if type(self).predict_noise is not CFGGuider.predict_noise:
            remedy = "Guiders that predict in Python are not run in the step loop; use the server's guiders."
            raise UnsupportedOption("guider", type(self).__name__, remedy)
        model = model_reference(self.model_patcher)
        sides = {side: conditioning_of(conds) for side, conds in self.original_conds.items()}
        if "negative" not in sides:
            return BasicGuider(model, sides["positive"])
        return CfgGuider(model, sides["positive"], sides["negative"], float(self.cfg))

    def predict_noise(
        self, x: Tensor, timestep: Tensor, model_options: Any = None, seed: Any = None
    ) -> Tensor:
        raise UnsupportedOption("guider.predict_noise", "outside of a run", "Sample with guider.sample.")

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.predict_noise(*args, **kwargs)

    def sample(
        self,
        noise: Tensor,
        latent_image: Tensor,
        sampler: Any,
        sigmas: Tensor,
        denoise_mask: Tensor | None = None,
        callback: Any = None,
        disable_pbar: bool = False,
        seed: int | None = None,
    ) -> Tensor:
        """A run: the samples, in the latent's units."""
        latent = Latent(latent_image.detach().cpu().float(), denoise_mask)
        return ran(self.reference(), latent, noise, sampler, sigmas, callback, seed)


class GuiderHandle(CFGGuider):
    """One of the server's guiders, as packs see it."""

    def __init__(self, reference: Guider, model_patcher: Any, sides: Mapping[str, Any]) -> None:
        super().__init__(model_patcher)
        self._reference = reference
        self.original_conds = dict(sides)
        self.cfg = getattr(reference, "cfg", 1.0)

    def reference(self) -> Guider:
        """With whatever was set since."""
        known = self._reference
        sides = {side: conditioning_of(conds) for side, conds in self.original_conds.items()}
        model = model_reference(self.model_patcher)
        match known:
            case BasicGuider():
                return BasicGuider(model, sides["positive"])
            case CfgGuider():
                return CfgGuider(model, sides["positive"], sides["negative"], float(self.cfg))
            case DualCfgGuider() | PerpNegGuider():
                return known


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
    """A run through the engine. callback is told of the end: (last step, estimate, samples, steps)."""
    reference = sampler.reference
    levels = sigmas if isinstance(sigmas, Schedule) else sigmas.detach().cpu().float()
    op: Denoise = Denoise(guider, latent, noise_of_tensor(noise, seed), reference, levels)
    (samples,), (denoised,) = outputs(op)
    assert isinstance(samples, Latent)
    assert isinstance(denoised, Latent)
    if callback is not None:
        steps = levels.steps if isinstance(levels, Schedule) else max(1, len(levels) - 1)
        callback(steps - 1, denoised.samples, samples.samples, steps)
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
