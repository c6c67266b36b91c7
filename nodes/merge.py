"""Models and text encoders merged: recipes, carried out by the workers that need the result."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated

from backend.components import Blend, LoraUse, Share, Source, Weights, blended
from backend.node import Float, InputSpec, NodeSpec, OutputSpec, node
from backend.references import Clip, Model

CATEGORY = "advanced/model_merging"
MODULE = "comfy_extras.nodes_model_merging"
Ratio = Annotated[float, Float(0.0, 1.0, step=0.01)]
Multiplier = Annotated[float, Float(-10.0, 10.0, step=0.01)]


def merged_models(base: Model, other: Model, *shares: Share) -> Model:
    """The base with another model mixed in. What nodes changed about the base, but for its weights, stays."""
    weights = mixture(Source(base.weights, base.loras), Source(other.weights, other.loras), shares)
    return base if weights is None else replace(base, weights=weights, loras=())


def merged_clips(base: Clip, other: Clip, share: Share) -> Clip:
    """Each text encoder of the base with that of its kind mixed in; one without a counterpart stays."""
    theirs = {weights.part: weights for weights in other.weights}
    if share.other == 0 and share.base == 1:
        return base
    made = []
    for weights in base.weights:
        counterpart = theirs.get(weights.part)
        second = None if counterpart is None else Source(counterpart, other.loras)
        made.append(mixture(Source(weights, base.loras), second, (share,)) or weights)
    return replace(base, weights=tuple(made), loras=())


def mixture(base: Source, other: Source | None, shares: tuple[Share, ...]) -> Weights | None:
    """The merged weights; None where they are those of the base, with its LoRAs beside them."""
    if all((share.base, share.other) == (1.0, 0.0) for share in shares):
        return None
    if other is None and not base.loras:
        return None
    return blended(Blend(base, other, shares))


def alone(weights: Weights, loras: tuple[LoraUse, ...]) -> Weights:
    """Weights with their LoRAs baked in."""
    return blended(Blend(Source(weights, loras))) if loras else weights


def by_ratio(start: str, ratio: float) -> Share:
    """`ratio` of the first, the rest of the second."""
    return Share(start, ratio, 1.0 - ratio)


@node("ModelMergeSimple", category=CATEGORY, module=MODULE)
def model_merge_simple(*, model1: Model, model2: Model, ratio: Ratio = 1.0) -> Model:
    """`ratio` of the first model, the rest of the second."""
    return merged_models(model1, model2, by_ratio("", ratio))


@node("ModelMergeBlocks", category=CATEGORY, module=MODULE)
def model_merge_blocks(
    *, model1: Model, model2: Model, input: Ratio = 1.0, middle: Ratio = 1.0, out: Ratio = 1.0
) -> Model:
    """A ratio for each part of a UNet; what is in none of them goes by that of the input."""
    ratios = {"": input, "input": input, "middle": middle, "out": out}
    return merged_models(model1, model2, *(by_ratio(start, ratio) for start, ratio in ratios.items()))


@node("ModelMergeSubtract", category=CATEGORY, module=MODULE)
def model_merge_subtract(*, model1: Model, model2: Model, multiplier: Multiplier = 1.0) -> Model:
    """The difference of two models, times a number."""
    return merged_models(model1, model2, Share("", multiplier, -multiplier))


@node("ModelMergeAdd", category=CATEGORY, module=MODULE)
def model_merge_add(*, model1: Model, model2: Model) -> Model:
    """The sum of two models: for differences."""
    return merged_models(model1, model2, Share("", 1.0, 1.0))


@node("CLIPMergeSimple", category=CATEGORY, module=MODULE)
def clip_merge_simple(*, clip1: Clip, clip2: Clip, ratio: Ratio = 1.0) -> Clip:
    """`ratio` of the first text encoder, the rest of the second."""
    return merged_clips(clip1, clip2, by_ratio("", ratio))


@node("CLIPMergeSubtract", category=CATEGORY, module=MODULE)
def clip_merge_subtract(*, clip1: Clip, clip2: Clip, multiplier: Multiplier = 1.0) -> Clip:
    """The difference of two text encoders, times a number."""
    return merged_clips(clip1, clip2, Share("", multiplier, -multiplier))


@node("CLIPMergeAdd", category=CATEGORY, module=MODULE)
def clip_merge_add(*, clip1: Clip, clip2: Clip) -> Clip:
    """The sum of two text encoders: for differences."""
    return merged_clips(clip1, clip2, Share("", 1.0, 1.0))


# -- a ratio for each part of a model ----------------------------------------------------------------


def by_parts(name: str, parts: str) -> NodeSpec:
    """A node with one ratio for each part of a family's network; others go by the first.

    parts: the starts of canonical names, "blocks.{0..3}." for four of them.
    """
    starts = [start for part in parts.split() for start in _numbered(part)]
    options: Mapping[str, object] = {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01}

    def merge(*, model1: Model, model2: Model, **ratios: float) -> Model:
        first = by_ratio("", ratios[starts[0]])
        return merged_models(model1, model2, first, *(by_ratio(s, ratios[s]) for s in starts))

    return NodeSpec(
        name=name,
        function=merge,
        kind="reference",
        category=f"{CATEGORY}/model_specific",
        inputs=(
            *(InputSpec(model, "MODEL", {}) for model in ("model1", "model2")),
            *(InputSpec(start, "FLOAT", options) for start in starts),
        ),
        outputs=(OutputSpec("MODEL", "MODEL"),),
        display_name=name,
        description="A ratio of the first model for each part of the network; the rest is the second's.",
        module="comfy_extras.nodes_model_merging_model_specific",
    )


def _numbered(part: str) -> list[str]:
    before, brace, rest = part.partition("{")
    if not brace:
        return [part]
    span, _, after = rest.partition("}")
    first, last = map(int, span.split(".."))
    return [f"{before}{number}{after}" for number in range(first, last + 1)]


UNET = "time_embed. label_emb. input_blocks.{0..11}. middle_block.{0..2}. output_blocks.{0..11}. out."
SD3 = "pos_embed. x_embedder. context_embedder. y_embedder. t_embedder."
COSMOS = "pos_embedder. extra_pos_embedder. x_embedder. t_embedder. affline_norm."
PREDICT2 = "pos_embedder. x_embedder. t_embedder. t_embedding_norm."

SD1_PARTS = by_parts("ModelMergeSD1", UNET)
SD2_PARTS = by_parts("ModelMergeSD2", UNET)
SDXL_PARTS = by_parts(
    "ModelMergeSDXL",
    "time_embed. label_emb. input_blocks.{0..8} middle_block.{0..2} output_blocks.{0..8} out.",
)
SD3_PARTS = by_parts("ModelMergeSD3_2B", f"{SD3} joint_blocks.{{0..23}}. final_layer.")
SD35_PARTS = by_parts("ModelMergeSD35_Large", f"{SD3} joint_blocks.{{0..37}}. final_layer.")
AURA_PARTS = by_parts(
    "ModelMergeAuraflow",
    "init_x_linear. positional_encoding cond_seq_linear. register_tokens t_embedder. double_layers.{0..3}. "
    "single_layers.{0..31}. modF. final_linear.",
)
FLUX_PARTS = by_parts(
    "ModelMergeFlux1",
    "img_in. time_in. guidance_in vector_in. txt_in. double_blocks.{0..18}. single_blocks.{0..37}. "
    "final_layer.",
)
MOCHI_PARTS = by_parts(
    "ModelMergeMochiPreview",
    "pos_frequencies. t_embedder. t5_y_embedder. t5_yproj. blocks.{0..47}. final_layer.",
)
LTXV_PARTS = by_parts(
    "ModelMergeLTXV",
    "patchify_proj. adaln_single. caption_projection. transformer_blocks.{0..27}. scale_shift_table "
    "proj_out.",
)
COSMOS_7B_PARTS = by_parts("ModelMergeCosmos7B", f"{COSMOS} blocks.block{{0..27}}. final_layer.")
COSMOS_14B_PARTS = by_parts("ModelMergeCosmos14B", f"{COSMOS} blocks.block{{0..35}}. final_layer.")
PREDICT2_2B_PARTS = by_parts("ModelMergeCosmosPredict2_2B", f"{PREDICT2} blocks.{{0..27}}. final_layer.")
PREDICT2_14B_PARTS = by_parts("ModelMergeCosmosPredict2_14B", f"{PREDICT2} blocks.{{0..35}}. final_layer.")
WAN_PARTS = by_parts(
    "ModelMergeWAN2_1",
    "patch_embedding. time_embedding. time_projection. text_embedding. img_emb. blocks.{0..39}. head.",
)
QWEN_PARTS = by_parts(
    "ModelMergeQwenImage",
    "pos_embeds. img_in. txt_norm. txt_in. time_text_embed. transformer_blocks.{0..59}. proj_out.",
)
