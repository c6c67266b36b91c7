"""Pictures as prompts: image encoders and style models."""

from typing import Annotated

from backend.library import Library
from backend.node import Choice, Float, node
from backend.ops import ApplyStyle, EncodeVision, Op
from backend.references import ClipVision, StyleModel
from backend.types import ClipVisionOutput, Conditioning, Image


@node("CLIPVisionLoader", category="loaders", display_name="Load CLIP Vision")
def clip_vision_loader(
    *, clip_name: Annotated[str, Choice(lambda s: s.files("clip_vision"))], library: Library
) -> ClipVision:
    """An image encoder from a file."""
    return ClipVision(library.find("clip_vision", "clip_vision", clip_name))


@node("CLIPVisionEncode", category="conditioning", display_name="CLIP Vision Encode")
def clip_vision_encode(
    *, clip_vision: ClipVision, image: Image, crop: Annotated[str, Choice(("center", "none"))]
) -> Op[ClipVisionOutput]:
    """Encode pictures: the square in their middle ("center"), or all of them, squeezed into a square."""
    return EncodeVision(clip_vision, image, crop == "center")


@node("StyleModelLoader", category="loaders", display_name="Load Style Model")
def style_model_loader(
    *, style_model_name: Annotated[str, Choice(lambda s: s.files("style_models"))], library: Library
) -> StyleModel:
    """A style model from a file."""
    return StyleModel(library.find("style_model", "style_models", style_model_name))


@node("StyleModelApply", category="conditioning/style_model", display_name="Apply Style Model")
def style_model_apply(
    *,
    conditioning: Conditioning,
    style_model: StyleModel,
    clip_vision_output: ClipVisionOutput,
    strength: Annotated[float, Float(0.0, 10.0, step=0.001)] = 1.0,
    strength_type: Annotated[str, Choice(("multiply", "attn_bias"))],
) -> Op[Conditioning]:
    """Conditions followed by tokens of a picture's style.

    `multiply` scales these, `attn_bias` how much attention they get.
    """
    biased = strength_type == "attn_bias"
    return ApplyStyle(conditioning, style_model, clip_vision_output, strength, biased)
