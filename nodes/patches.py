"""What changes a model without touching its weights: sampling, guidance, and the network's blocks."""

from typing import Annotated

from backend.node import Choice, Float, Int, node
from backend.patches import (
    DiscreteKind,
    DiscreteSampling,
    Downscale,
    FreeU,
    HyperTile,
    PerturbedAttention,
    RescaleCfg,
    ResizeMethod,
    SelfAttention,
    TokenMerging,
)
from backend.references import Clip, Model
from backend.resize import LATENT_METHODS

ADVANCED = "advanced/model"
EXPERIMENTS = "_for_testing/attention_experiments"
MULTIPLY = "comfy_extras.nodes_attention_multiply"
IN_UNET = r"^(down_blocks|mid_block|up_blocks)\..*\.transformer_blocks\.\d+"
UNET = "model_patches/unet"
Factor = Annotated[float, Float(0.0, 10.0, step=0.01)]
Multiplier = Annotated[float, Float(0.0, 10.0, step=0.01)]
Percent = Annotated[float, Float(0.0, 1.0, step=0.001)]
METHODS = ("bicubic", *(method for method in LATENT_METHODS if method != "bicubic"))
Method = Annotated[ResizeMethod, Choice(METHODS, style="COMBO", multiselect=False)]


@node("ModelSamplingDiscrete", category=ADVANCED, module="comfy_extras.nodes_model_advanced")
def model_sampling_discrete(
    *,
    model: Model,
    sampling: Annotated[DiscreteKind, Choice(("eps", "v_prediction", "lcm", "x0", "img_to_img"))],
    zsnr: bool = False,
) -> Model:
    """What the model predicts. `zsnr`: its range of noise is stretched until no signal is left."""
    return model.with_patch(DiscreteSampling(sampling, zsnr))


@node("RescaleCFG", category=ADVANCED, module="comfy_extras.nodes_model_advanced")
def rescale_cfg(*, model: Model, multiplier: Annotated[float, Float(0.0, 1.0, step=0.01)] = 0.7) -> Model:
    """Keeps guidance from overexposing, as models with v-prediction need it."""
    return model.with_patch(RescaleCfg(multiplier))


@node("FreeU", category=UNET, module="comfy_extras.nodes_freelunch")
def free_u(*, model: Model, b1: Factor = 1.1, b2: Factor = 1.2, s1: Factor = 0.9, s2: Factor = 0.2) -> Model:
    """Strengthens a UNet's backbone and dampens its skips."""
    return model.with_patch(FreeU(b1, b2, s1, s2, 1))


@node("FreeU_V2", category=UNET, module="comfy_extras.nodes_freelunch")
def free_u_v2(
    *, model: Model, b1: Factor = 1.3, b2: Factor = 1.4, s1: Factor = 0.9, s2: Factor = 0.2
) -> Model:
    """The same, most where the backbone is strong already."""
    return model.with_patch(FreeU(b1, b2, s1, s2, 2))


@node("PerturbedAttentionGuidance", category=UNET, module="comfy_extras.nodes_pag")
def perturbed_attention_guidance(
    *, model: Model, scale: Annotated[float, Float(0.0, 100.0, step=0.01, round=0.01)] = 3.0
) -> Model:
    """Guidance away from what the model makes without self-attention in its middle."""
    return model.with_patch(PerturbedAttention(scale))


@node(
    "SelfAttentionGuidance",
    category="_for_testing",
    module="comfy_extras.nodes_sag",
    display_name="Self-Attention Guidance",
    experimental=True,
)
def self_attention_guidance(
    *,
    model: Model,
    scale: Annotated[float, Float(-2.0, 5.0, step=0.01)] = 0.5,
    blur_sigma: Annotated[float, Float(0.0, 10.0, step=0.1)] = 2.0,
) -> Model:
    """Guidance away from what the model makes of a picture that is blurred where it looks."""
    return model.with_patch(SelfAttention(scale, blur_sigma))


@node(
    "PatchModelAddDownscale",
    category=UNET,
    module="comfy_extras.nodes_model_downscale",
    display_name="PatchModelAddDownscale (Kohya Deep Shrink)",
)
def patch_model_add_downscale(
    *,
    model: Model,
    block_number: Annotated[int, Int(1, 32, step=1)] = 3,
    downscale_factor: Annotated[float, Float(0.1, 9.0, step=0.001)] = 2.0,
    start_percent: Percent = 0.0,
    end_percent: Percent = 0.35,
    downscale_after_skip: bool = True,
    downscale_method: Method,
    upscale_method: Method,
) -> Model:
    """The UNet works at a lower resolution from a block on, for a part of the sampling."""
    return model.with_patch(
        Downscale(
            block_number,
            downscale_factor,
            start_percent,
            end_percent,
            downscale_after_skip,
            downscale_method,
            upscale_method,
        )
    )


@node("HyperTile", category=UNET, module="comfy_extras.nodes_hypertile")
def hyper_tile(
    *,
    model: Model,
    tile_size: Annotated[int, Int(1, 2048)] = 256,
    swap_size: Annotated[int, Int(1, 128)] = 2,
    max_depth: Annotated[int, Int(0, 10)] = 0,
    scale_depth: bool = False,
) -> Model:
    """Self-attention in tiles."""
    return model.with_patch(HyperTile(tile_size, swap_size, max_depth, scale_depth))


@node("TomePatchModel", category=UNET, module="comfy_extras.nodes_tomesd")
def tome_patch_model(*, model: Model, ratio: Annotated[float, Float(0.0, 1.0, step=0.01)] = 0.3) -> Model:
    """Self-attention with alike places merged."""
    return model.with_patch(TokenMerging(ratio))


@node("UNetSelfAttentionMultiply", category=EXPERIMENTS, module=MULTIPLY, experimental=True)
def unet_self_attention_multiply(
    *, model: Model, q: Multiplier = 1.0, k: Multiplier = 1.0, v: Multiplier = 1.0, out: Multiplier = 1.0
) -> Model:
    """The weights of a UNet's self-attention, multiplied."""
    return model.scaled(_attention("attn1", q, k, v, out))


@node("UNetCrossAttentionMultiply", category=EXPERIMENTS, module=MULTIPLY, experimental=True)
def unet_cross_attention_multiply(
    *, model: Model, q: Multiplier = 1.0, k: Multiplier = 1.0, v: Multiplier = 1.0, out: Multiplier = 1.0
) -> Model:
    """The weights of a UNet's attention to the text, multiplied."""
    return model.scaled(_attention("attn2", q, k, v, out))


@node("UNetTemporalAttentionMultiply", category=EXPERIMENTS, module=MULTIPLY, experimental=True)
def unet_temporal_attention_multiply(
    *,
    model: Model,
    self_structural: Multiplier = 1.0,
    self_temporal: Multiplier = 1.0,
    cross_structural: Multiplier = 1.0,
    cross_temporal: Multiplier = 1.0,
) -> Model:
    """The outputs of a video UNet's attention, multiplied: within frames and between them.

    A UNet of pictures has no attention between frames, and the temporal factors change nothing.
    """
    return model.scaled(
        {
            rf"{IN_UNET}\.attn1\.to_out\.0$": self_structural,
            rf"{IN_UNET}\.attn2\.to_out\.0$": cross_structural,
            r"temporal_transformer_blocks\.\d+\.attn1\.to_out\.0$": self_temporal,
            r"temporal_transformer_blocks\.\d+\.attn2\.to_out\.0$": cross_temporal,
        }
    )


@node("CLIPAttentionMultiply", category=EXPERIMENTS, module=MULTIPLY, experimental=True)
def clip_attention_multiply(
    *, clip: Clip, q: Multiplier = 1.0, k: Multiplier = 1.0, v: Multiplier = 1.0, out: Multiplier = 1.0
) -> Clip:
    """The weights of a CLIP's attention, multiplied."""
    layers = {"q_proj": q, "k_proj": k, "v_proj": v, "out_proj": out}
    return clip.scaled({rf"self_attn\.{layer}$": factor for layer, factor in layers.items()})


def _attention(name: str, q: float, k: float, v: float, out: float) -> dict[str, float]:
    layers = {"to_q": q, "to_k": k, "to_v": v, r"to_out\.0": out}
    return {rf"{IN_UNET}\.{name}\.{layer}$": factor for layer, factor in layers.items()}
