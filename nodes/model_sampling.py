"""How a model samples: what it predicts, and over which range of noise."""

from typing import Annotated

from backend.node import Choice, Float, Int, node
from backend.patches import CascadeSampling, ContinuousKind, ContinuousSampling, FlowSampling
from backend.references import Model

ADVANCED = "advanced/model"
MODULE = "comfy_extras.nodes_model_advanced"
MAX_RESOLUTION = 16384
Shift = Annotated[float, Float(0.0, 100.0, step=0.01)]
Sigma = Annotated[float, Float(0.0, 1000.0, step=0.001, round=False)]
Side = Annotated[int, Int(16, MAX_RESOLUTION, step=8)]
_FEW, _MANY = 256, 4096  # tokens for which Flux's base shift and largest shift are meant
_TOKEN = 16  # pixels of a token's side


@node("ModelSamplingContinuousEDM", category=ADVANCED, module=MODULE)
def model_sampling_continuous_edm(
    *,
    model: Model,
    sampling: Annotated[
        ContinuousKind, Choice(("v_prediction", "edm", "edm_playground_v2.5", "eps", "cosmos_rflow"))
    ],
    sigma_max: Sigma = 120.0,
    sigma_min: Sigma = 0.002,
) -> Model:
    """A range of noise without steps, in its logarithm: arXiv:2206.00364."""
    return model.with_patch(ContinuousSampling(sampling, sigma_min, sigma_max))


@node("ModelSamplingContinuousV", category=ADVANCED, module=MODULE)
def model_sampling_continuous_v(
    *,
    model: Model,
    sampling: Annotated[ContinuousKind, Choice(("v_prediction",))],
    sigma_max: Sigma = 500.0,
    sigma_min: Sigma = 0.03,
) -> Model:
    """A range of noise without steps, as an angle: arXiv:2202.00512."""
    return model.with_patch(ContinuousSampling(sampling, sigma_min, sigma_max, angle=True))


@node("ModelSamplingStableCascade", category=ADVANCED, module=MODULE)
def model_sampling_stable_cascade(*, model: Model, shift: Shift = 2.0) -> Model:
    """Stable Cascade's range of noise, a cosine's."""
    return model.with_patch(CascadeSampling(shift))


@node("ModelSamplingSD3", category=ADVANCED, module=MODULE)
def model_sampling_sd3(*, model: Model, shift: Shift = 3.0) -> Model:
    """A flow that spends more of its steps on much noise, the larger the shift."""
    return model.with_patch(FlowSampling("shifted", shift, 1000.0))


@node("ModelSamplingAuraFlow", category=ADVANCED, module=MODULE)
def model_sampling_aura_flow(*, model: Model, shift: Shift = 1.73) -> Model:
    """The same, for networks whose time goes from 0 to 1."""
    return model.with_patch(FlowSampling("shifted", shift, 1.0))


@node("ModelSamplingFlux", category=ADVANCED, module=MODULE)
def model_sampling_flux(
    *,
    model: Model,
    max_shift: Shift = 1.15,
    base_shift: Annotated[float, Float(0.0, 100.0, step=0.01)] = 0.5,
    width: Side = 1024,
    height: Side = 1024,
) -> Model:
    """Flux's shift, larger for larger pictures."""
    slope = (max_shift - base_shift) / (_MANY - _FEW)
    shift = (width * height / _TOKEN**2) * slope + (base_shift - slope * _FEW)
    return model.with_patch(FlowSampling("exponential", shift))
