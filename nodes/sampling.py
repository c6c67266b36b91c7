"""Samplers, guiders and noise."""

from typing import Annotated

from backend.guiders import (
    BasicGuider,
    CfgGuider,
    DualCfgGuider,
    Guider,
    Noise,
    PerpNegGuider,
    Sampler,
    Schedule,
)
from backend.node import Choice, Float, Int, node
from backend.ops import AddNoise, Denoise, Op, Part
from backend.references import Model
from backend.sampling.names import SAMPLER_NAMES, SCHEDULER_NAMES
from backend.types import Conditioning, Latent, Sigmas

CUSTOM = "sampling/custom_sampling"
EXTRAS = "comfy_extras.nodes_custom_sampler"
Seed = Annotated[int, Int(0, 2**64 - 1, control_after_generate=True)]
Steps = Annotated[int, Int(1, 10000)]
Cfg = Annotated[float, Float(0.0, 100.0, step=0.1, round=0.01)]
SamplerName = Annotated[str, Choice(SAMPLER_NAMES)]
SchedulerName = Annotated[str, Choice(SCHEDULER_NAMES)]


@node("KSampler", category="sampling")
def ksampler(
    *,
    model: Model,
    seed: Seed = 0,
    steps: Steps = 20,
    cfg: Cfg = 8.0,
    sampler_name: SamplerName,
    scheduler: SchedulerName,
    positive: Conditioning,
    negative: Conditioning,
    latent_image: Latent,
    denoise: Annotated[float, Float(0.0, 1.0, step=0.01)] = 1.0,
) -> Op[Latent]:
    """Denoise `latent_image`, steering towards `positive` and away from `negative`."""
    return Denoise(
        CfgGuider(model, positive, negative, cfg),
        latent_image,
        Noise(seed),
        Sampler(sampler_name),
        Schedule(scheduler, steps, denoise),
    )


@node("KSamplerAdvanced", category="sampling", display_name="KSampler (Advanced)")
def ksampler_advanced(
    *,
    model: Model,
    add_noise: Annotated[str, Choice(("enable", "disable"))],
    noise_seed: Seed = 0,
    steps: Steps = 20,
    cfg: Cfg = 8.0,
    sampler_name: SamplerName,
    scheduler: SchedulerName,
    positive: Conditioning,
    negative: Conditioning,
    latent_image: Latent,
    start_at_step: Annotated[int, Int(0, 10000)] = 0,
    end_at_step: Annotated[int, Int(0, 10000)] = 10000,
    return_with_leftover_noise: Annotated[str, Choice(("disable", "enable"))],
) -> Op[Latent]:
    """A part of a sampling run: from one step to another, with or without fresh noise."""
    schedule = Schedule(
        scheduler,
        steps,
        start=start_at_step,
        end=end_at_step,
        force_full_denoise=return_with_leftover_noise == "disable",
    )
    return Denoise(
        CfgGuider(model, positive, negative, cfg),
        latent_image,
        Noise(noise_seed, enabled=add_noise == "enable"),
        Sampler(sampler_name),
        schedule,
    )


@node("SamplerCustom", category=CUSTOM, module=EXTRAS, outputs=("output", "denoised_output"))
def sampler_custom(
    *,
    model: Model,
    add_noise: bool = True,
    noise_seed: Seed = 0,
    cfg: Cfg = 8.0,
    positive: Conditioning,
    negative: Conditioning,
    sampler: Sampler,
    sigmas: Sigmas,
    latent_image: Latent,
) -> tuple[Op[Latent], Op[Latent]]:
    """Denoise along given sigmas. Second output: the last estimate of the clean latent."""
    guider = CfgGuider(model, positive, negative, cfg)
    run: Denoise = Denoise(guider, latent_image, Noise(noise_seed, add_noise), sampler, sigmas)
    return Part(run, 0), Part(run, 1)


@node("SamplerCustomAdvanced", category=CUSTOM, module=EXTRAS, outputs=("output", "denoised_output"))
def sampler_custom_advanced(
    *, noise: Noise, guider: Guider, sampler: Sampler, sigmas: Sigmas, latent_image: Latent
) -> tuple[Op[Latent], Op[Latent]]:
    """Denoise with a guider of one's choice. Second output: the last estimate of the clean latent."""
    run: Denoise = Denoise(guider, latent_image, noise, sampler, sigmas)
    return Part(run, 0), Part(run, 1)


@node("BasicGuider", category=f"{CUSTOM}/guiders", module=EXTRAS)
def basic_guider(*, model: Model, conditioning: Conditioning) -> Guider:
    """The model under one conditioning, unsteered."""
    return BasicGuider(model, conditioning)


@node("CFGGuider", category=f"{CUSTOM}/guiders", module=EXTRAS)
def cfg_guider(*, model: Model, positive: Conditioning, negative: Conditioning, cfg: Cfg = 8.0) -> Guider:
    """Classifier-free guidance."""
    return CfgGuider(model, positive, negative, cfg)


@node("DualCFGGuider", category=f"{CUSTOM}/guiders", module=EXTRAS)
def dual_cfg_guider(
    *,
    model: Model,
    cond1: Conditioning,
    cond2: Conditioning,
    negative: Conditioning,
    cfg_conds: Cfg = 8.0,
    cfg_cond2_negative: Cfg = 8.0,
    style: Annotated[str, Choice(("regular", "nested"))],
) -> Guider:
    """Guidance from `cond2` to `cond1`, and from `negative` to `cond2`: added up, or one within the other."""
    nested = style == "nested"
    return DualCfgGuider(model, cond1, cond2, negative, cfg_conds, cfg_cond2_negative, nested)


@node("PerpNegGuider", category="_for_testing", module="comfy_extras.nodes_perpneg", experimental=True)
def perp_neg_guider(
    *,
    model: Model,
    positive: Conditioning,
    negative: Conditioning,
    empty_conditioning: Conditioning,
    cfg: Cfg = 8.0,
    neg_scale: Annotated[float, Float(0.0, 100.0, step=0.01)] = 1.0,
) -> Guider:
    """Guidance away from what is in the negative conditioning and not in the positive one."""
    return PerpNegGuider(model, positive, negative, empty_conditioning, cfg, neg_scale)


@node("RandomNoise", category=f"{CUSTOM}/noise", module=EXTRAS)
def random_noise(*, noise_seed: Seed = 0) -> Noise:
    """The noise of a seed."""
    return Noise(noise_seed)


@node("DisableNoise", category=f"{CUSTOM}/noise", module=EXTRAS)
def disable_noise() -> Noise:
    """No noise: the latent as it is."""
    return Noise(0, enabled=False)


@node("KSamplerSelect", category=f"{CUSTOM}/samplers", module=EXTRAS)
def ksampler_select(*, sampler_name: SamplerName) -> Sampler:
    """A sampler by name, with its ordinary options."""
    return Sampler(sampler_name)


@node("AddNoise", category="_for_testing/custom_sampling/noise", module=EXTRAS)
def add_noise(*, model: Model, noise: Noise, sigmas: Sigmas, latent_image: Latent) -> Op[Latent]:
    """The latent with noise, as far as the sigmas go."""
    return AddNoise(model, noise, sigmas, latent_image)
