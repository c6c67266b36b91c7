"""What a model's output means, its noise range and its latents, as nodes may have changed them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

from backend.models.families.sdxl import PLAYGROUND
from backend.models.family import Layout
from backend.models.latent import LatentFormat
from backend.patches import (
    CascadeSampling,
    ContinuousSampling,
    DiscreteSampling,
    Downscale,
    FlowSampling,
    ModelPatch,
    SkipLayers,
    SkipLayersInNegative,
)
from backend.references import Model
from backend.sampling.discretization import (
    cascade,
    continuous,
    continuous_flow,
    distilled,
    exponential_flow,
    scaled_linear,
    shifted_flow,
)
from backend.sampling.foreign import codes_of
from backend.sampling.prediction import Prediction

Sampling: TypeAlias = DiscreteSampling | FlowSampling | ContinuousSampling | CascadeSampling
SAMPLING = (DiscreteSampling, FlowSampling, ContinuousSampling, CascadeSampling)
TIMED = (Downscale, SkipLayers, SkipLayersInNegative)
EDM_DATA = 0.5  # deviation of clean latents that EDM models were trained with


def prediction_of(layout: Layout, patches: Sequence[ModelPatch] = ()) -> Prediction:
    """What the model's output means, and over which range of noise; the last patch of it decides, and what
    node packs put in its place.
    """
    known = _known(layout, patches)
    for code in codes_of(patches):
        known = code.prediction(known)
    return known


def timed(layout: Layout, model: Model) -> Model:
    """The model, its patches' starts and ends as noise levels of what it was when each was put on.

    In ComfyUI a node looks at the model it is given: sampling that is changed behind it moves nothing.
    """
    patches = model.patches
    if not any(isinstance(patch, TIMED) for patch in patches):
        return model
    return replace(model, patches=tuple(_timed(layout, patches, place) for place in range(len(patches))))


def _timed(layout: Layout, patches: Sequence[ModelPatch], place: int) -> ModelPatch:
    patch = patches[place]
    if not isinstance(patch, TIMED):
        return patch
    noise = prediction_of(layout, patches[:place]).range
    return replace(patch, sigmas=(noise.percent_to_sigma(patch.start), noise.percent_to_sigma(patch.end)))


def _known(layout: Layout, patches: Sequence[ModelPatch]) -> Prediction:
    match _last(patches):
        case None:
            return layout.prediction
        case DiscreteSampling() as sampling:
            return _discrete(sampling)
        case FlowSampling("exponential", shift):
            return Prediction("flow", exponential_flow(shift))
        case FlowSampling(_, shift, multiplier):
            return Prediction("flow", shifted_flow(shift, multiplier))
        case CascadeSampling(shift):
            return Prediction("eps", cascade(shift))
        case ContinuousSampling() as sampling:
            return _continuous(sampling)


def format_of(layout: Layout, patches: Sequence[ModelPatch] = ()) -> LatentFormat:
    """The model's latents; Playground's, where a node says that it is one."""
    sampling = _last(patches)
    playground = isinstance(sampling, ContinuousSampling) and sampling.kind == "edm_playground_v2.5"
    return PLAYGROUND if playground else layout.latent


def _last(patches: Sequence[ModelPatch]) -> Sampling | None:
    return next((patch for patch in reversed(patches) if isinstance(patch, Sampling)), None)


def _discrete(sampling: DiscreteSampling) -> Prediction:
    noise = scaled_linear(zero_terminal=sampling.zsnr)
    match sampling.kind:
        case "eps" | "x0" | "img_to_img" as kind:
            return Prediction(kind, noise)
        case "v_prediction":
            return Prediction("v", noise)
        case "lcm":
            return Prediction("lcm", distilled(noise))


def _continuous(sampling: ContinuousSampling) -> Prediction:
    noise = continuous(sampling.sigma_min, sampling.sigma_max, sampling.angle)
    match sampling.kind:
        case "eps":
            return Prediction("eps", noise)
        case "v_prediction":
            return Prediction("v", noise)
        case "edm" | "edm_playground_v2.5":
            return Prediction("edm", noise, EDM_DATA)
        case "cosmos_rflow":
            return Prediction("scaled_flow", continuous_flow(sampling.sigma_min, sampling.sigma_max))
