"""Pictures enlarged by a network."""

from typing import Annotated

from backend.library import Library
from backend.node import Choice, node
from backend.ops import Op, Upscale
from backend.references import UpscaleModel
from backend.types import Image

MODULE = "comfy_extras.nodes_upscale_model"


@node("UpscaleModelLoader", category="loaders", display_name="Load Upscale Model", module=MODULE)
def upscale_model_loader(
    *,
    model_name: Annotated[str, Choice(lambda s: s.files("upscale_models"), style="COMBO")],
    library: Library,
) -> UpscaleModel:
    """An upscale model from a file."""
    return UpscaleModel(library.find("upscaler", "upscale_models", model_name))


@node(
    "ImageUpscaleWithModel",
    category="image/upscaling",
    display_name="Upscale Image (using Model)",
    module=MODULE,
)
def image_upscale_with_model(*, upscale_model: UpscaleModel, image: Image) -> Op[Image]:
    """The pictures at the model's own factor."""
    return Upscale(upscale_model, image)
