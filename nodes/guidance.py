"""Ways to guide: what is made of the positive and the negative prediction."""

import re
from typing import Annotated

from backend.latent_operations import LatentOperation
from backend.node import Float, Int, String, node
from backend.patches import (
    Blocks,
    CfgNorm,
    CfgZeroStar,
    DifferentialMask,
    EasyCache,
    EpsilonScale,
    FrequencyGuidance,
    GuidanceOperation,
    LazyCache,
    Mahiro,
    PerpNegative,
    ProjectedGuidance,
    RenormCfg,
    RowScales,
    SkipLayers,
    SkipLayersInNegative,
    TangentialDamping,
)
from backend.references import Model
from backend.types import Conditioning
from nodes.patches import ADVANCED, UNET

GUIDANCE = "advanced/guidance"
TESTING = "_for_testing"
OPERATIONS = "latent/advanced/operations"
VIDEO = "sampling/video_models"
CACHES = "advanced/debug/model"
PATCHED = ("patched_model",)
Layers = Annotated[str, String(multiline=False)]
Percent = Annotated[float, Float(0.0, 1.0, step=0.001)]
Share = Annotated[float, Float(0.0, 1.0, step=0.01)]
LeastCfg = Annotated[float, Float(0.0, 100.0, step=0.5, round=0.01)]


@node(
    "APG",
    category="sampling/custom_sampling",
    module="comfy_extras.nodes_apg",
    display_name="Adaptive Projected Guidance",
)
def apg(
    *,
    model: Model,
    eta: Annotated[float, Float(-10.0, 10.0, step=0.01)] = 1.0,
    norm_threshold: Annotated[float, Float(0.0, 50.0, step=0.1)] = 5.0,
    momentum: Annotated[float, Float(-5.0, 1.0, step=0.01)] = 0.0,
) -> Model:
    """Guidance of limited length, its part along the prediction scaled by `eta`."""
    return model.with_patch(ProjectedGuidance(eta, norm_threshold, momentum))


@node(
    "TCFG",
    category=GUIDANCE,
    module="comfy_extras.nodes_tcfg",
    display_name="Tangential Damping CFG",
    outputs=PATCHED,
)
def tcfg(*, model: Model) -> Model:
    """The negative prediction brought into line with the positive one."""
    return model.with_patch(TangentialDamping())


@node("FreSca", category=TESTING, module="comfy_extras.nodes_fresca", experimental=True)
def fre_sca(
    *,
    model: Model,
    scale_low: Annotated[float, Float(0, 10, step=0.01)] = 1.0,
    scale_high: Annotated[float, Float(0, 10, step=0.01)] = 1.25,
    freq_cutoff: Annotated[int, Int(1, 10000, step=1)] = 20,
) -> Model:
    """The guidance's low and high frequencies scaled apart."""
    return model.with_patch(FrequencyGuidance(scale_low, scale_high, freq_cutoff))


@node("CFGZeroStar", category=GUIDANCE, module="comfy_extras.nodes_cfg", outputs=PATCHED)
def cfg_zero_star(*, model: Model) -> Model:
    """The negative prediction scaled so that it fits the positive one best."""
    return model.with_patch(CfgZeroStar())


@node("CFGNorm", category=GUIDANCE, module="comfy_extras.nodes_cfg", outputs=PATCHED, experimental=True)
def cfg_norm(*, model: Model, strength: Annotated[float, Float(0.0, 100.0, step=0.01)] = 1.0) -> Model:
    """The result nowhere longer than the positive prediction."""
    return model.with_patch(CfgNorm(strength))


@node(
    "Mahiro",
    category=TESTING,
    module="comfy_extras.nodes_mahiro",
    display_name="Mahiro is so cute that she deserves a better guidance function!! (。・ω・。)",
    outputs=PATCHED,
    experimental=True,
)
def mahiro(*, model: Model) -> Model:
    """Guidance in the direction of the positive prediction, the more the less both sides are alike."""
    return model.with_patch(Mahiro())


@node("RenormCFG", category=ADVANCED, module="comfy_extras.nodes_lumina2")
def renorm_cfg(
    *,
    model: Model,
    cfg_trunc: Annotated[float, Float(0.0, 100.0, step=0.01)] = 100,
    renorm_cfg: Annotated[float, Float(0.0, 100.0, step=0.01)] = 1.0,
) -> Model:
    """Guidance below a noise level alone, its result no longer than `renorm_cfg` times the prediction."""
    return model.with_patch(RenormCfg(cfg_trunc, renorm_cfg))


@node(
    "PerpNeg",
    category=TESTING,
    module="comfy_extras.nodes_perpneg",
    display_name="Perp-Neg (DEPRECATED by PerpNegGuider)",
    deprecated=True,
    experimental=True,
)
def perp_neg(
    *,
    model: Model,
    empty_conditioning: Conditioning,
    neg_scale: Annotated[float, Float(0.0, 100.0, step=0.01)] = 1.0,
) -> Model:
    """Guidance away from what is in the negative conditioning and not in the positive one."""
    return model.with_patch(PerpNegative(empty_conditioning, neg_scale))


@node("Epsilon Scaling", category=UNET, module="comfy_extras.nodes_eps")
def epsilon_scaling(
    *,
    model: Model,
    scaling_factor: Annotated[float, Float(0.5, 1.5, step=0.001, display="number")] = 1.005,
) -> Model:
    """The predicted noise divided by a factor: a cure for exposure bias."""
    return model.with_patch(EpsilonScale(scaling_factor))


@node("VideoLinearCFGGuidance", category=VIDEO, module="comfy_extras.nodes_video_model")
def video_linear_cfg_guidance(*, model: Model, min_cfg: LeastCfg = 1.0) -> Model:
    """A guidance scale that rises from the first frame to the last."""
    return model.with_patch(RowScales(min_cfg, "linear"))


@node("VideoTriangleCFGGuidance", category=VIDEO, module="comfy_extras.nodes_video_model")
def video_triangle_cfg_guidance(*, model: Model, min_cfg: LeastCfg = 1.0) -> Model:
    """A guidance scale that rises to the middle frame, and falls again."""
    return model.with_patch(RowScales(min_cfg, "triangle"))


@node(
    "DifferentialDiffusion",
    category=TESTING,
    module="comfy_extras.nodes_differential_diffusion",
    display_name="Differential Diffusion",
    experimental=True,
)
def differential_diffusion(*, model: Model, strength: Share | None = 1.0) -> Model:
    """A noise mask's shades say how much of the sampling each place takes part in."""
    return model.with_patch(DifferentialMask(1.0 if strength is None else strength))


@node("SkipLayerGuidanceSD3", category=GUIDANCE, module="comfy_extras.nodes_sd3", experimental=True)
def skip_layer_guidance_sd3(
    *,
    model: Model,
    layers: Layers = "7, 8, 9",
    scale: Annotated[float, Float(0.0, 10.0, step=0.1)] = 3.0,
    start_percent: Percent = 0.01,
    end_percent: Percent = 0.15,
) -> Model:
    """Guidance away from what SD3 makes without some of its layers."""
    blocks = Blocks(double=numbers(layers))
    return model.with_patch(SkipLayers(blocks, scale, start_percent, end_percent)) if blocks else model


@node("SkipLayerGuidanceDiT", category=GUIDANCE, module="comfy_extras.nodes_slg", experimental=True)
def skip_layer_guidance_dit(
    *,
    model: Model,
    double_layers: Layers = "7, 8, 9",
    single_layers: Layers = "7, 8, 9",
    scale: Annotated[float, Float(0.0, 10.0, step=0.1)] = 3.0,
    start_percent: Percent = 0.01,
    end_percent: Percent = 0.15,
    rescaling_scale: Annotated[float, Float(0.0, 10.0, step=0.01)] = 0.0,
) -> Model:
    """Guidance away from what a transformer makes without some of its layers."""
    blocks = Blocks(numbers(double_layers), numbers(single_layers))
    if not blocks:
        return model
    return model.with_patch(SkipLayers(blocks, scale, start_percent, end_percent, rescaling_scale))


@node("SkipLayerGuidanceDiTSimple", category=GUIDANCE, module="comfy_extras.nodes_slg", experimental=True)
def skip_layer_guidance_dit_simple(
    *,
    model: Model,
    double_layers: Layers = "7, 8, 9",
    single_layers: Layers = "7, 8, 9",
    start_percent: Percent = 0.0,
    end_percent: Percent = 1.0,
) -> Model:
    """The negative prediction is made without some of a transformer's layers."""
    blocks = Blocks(numbers(double_layers), numbers(single_layers))
    return model.with_patch(SkipLayersInNegative(blocks, start_percent, end_percent)) if blocks else model


def numbers(text: str) -> tuple[int, ...]:
    """The whole numbers in a text, whatever stands between them."""
    return tuple(int(number) for number in re.findall(r"\d+", text))


@node("LatentApplyOperationCFG", category=OPERATIONS, module="comfy_extras.nodes_latent", experimental=True)
def latent_apply_operation_cfg(*, model: Model, operation: LatentOperation) -> Model:
    """An operation on the guidance of each step."""
    return model.with_patch(GuidanceOperation(operation))


@node("EasyCache", category=CACHES, module="comfy_extras.nodes_easycache", experimental=True)
def easy_cache(
    *,
    model: Model,
    reuse_threshold: Annotated[float, Float(0.0, 3.0, step=0.01)] = 0.2,
    start_percent: Share = 0.15,
    end_percent: Share = 0.95,
    verbose: bool = False,
) -> Model:
    """Leaves the network out of steps in which its output would change little."""
    return model.with_patch(EasyCache(reuse_threshold, start_percent, end_percent))


@node("LazyCache", category=CACHES, module="comfy_extras.nodes_easycache", experimental=True)
def lazy_cache(
    *,
    model: Model,
    reuse_threshold: Annotated[float, Float(0.0, 3.0, step=0.01)] = 0.2,
    start_percent: Share = 0.15,
    end_percent: Share = 0.95,
    verbose: bool = False,
) -> Model:
    """Leaves steps out in which the result would change little."""
    return model.with_patch(LazyCache(reuse_threshold, start_percent, end_percent))
