"""Networks that act within a diffusion model's passes: load one, and put it on a model."""

from typing import Annotated

from backend.library import Library
from backend.node import Choice, Float, node
from backend.patches import BlockGuide, StyleReference
from backend.references import Model, PatchNetwork, Vae
from backend.types import ClipVisionOutput, Image, Mask

MODULE = "comfy_extras.nodes_model_patch"


@node("ModelPatchLoader", category="advanced/loaders", module=MODULE, experimental=True)
def model_patch_loader(
    *, name: Annotated[str, Choice(lambda s: s.files("model_patches"))], library: Library
) -> PatchNetwork:
    """A network for a model from a file."""
    return PatchNetwork(library.find("model_patch", "model_patches", name))


@node("QwenImageDiffsynthControlnet", category="advanced/loaders/qwen", module=MODULE, experimental=True)
def qwen_image_diffsynth_controlnet(
    *,
    model: Model,
    model_patch: PatchNetwork,
    vae: Vae,
    image: Image,
    strength: Annotated[float, Float(-10.0, 10.0, step=0.01)] = 1.0,
    mask: Mask | None = None,
) -> Model:
    """Qwen-Image steered by a picture, behind each of its blocks."""
    return model.with_patch(BlockGuide(model_patch, vae, image, strength, mask))


@node("USOStyleReference", category="advanced/model_patches/flux", module=MODULE, experimental=True)
def uso_style_reference(
    *, model: Model, model_patch: PatchNetwork, clip_vision_output: ClipVisionOutput
) -> Model:
    """Flux drawn to the style of a picture that SigLIP encoded."""
    return model.with_patch(StyleReference(model_patch, clip_vision_output))
