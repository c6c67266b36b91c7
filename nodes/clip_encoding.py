"""Text encodings that are told more than a text: SDXL's sizes, a ControlNet's own text."""

from typing import Annotated

from backend.node import Float, Int, String, node
from backend.ops import EncodeText, Op, WithControlText, WithOptions
from backend.references import Clip
from backend.storage import Storage
from backend.types import Conditioning
from nodes.conditioning import MAX_RESOLUTION, embeddings_in
from nodes.text import one_of

Prompt = Annotated[str, String(multiline=True, dynamic_prompts=True)]
Side = Annotated[int, Int(0, MAX_RESOLUTION)]


@node("CLIPTextEncodeSDXL", category="advanced/conditioning", module="comfy_extras.nodes_clip_sdxl")
def clip_text_encode_sdxl(
    *,
    clip: Clip,
    width: Side = 1024,
    height: Side = 1024,
    crop_w: Side = 0,
    crop_h: Side = 0,
    target_width: Side = 1024,
    target_height: Side = 1024,
    text_g: Prompt,
    text_l: Prompt,
    storage: Storage,
) -> Op[Conditioning]:
    """A prompt for each of SDXL's encoders, and the sizes that the picture is said to have and to show."""
    embeddings = tuple(dict.fromkeys(embeddings_in(text_g, storage) + embeddings_in(text_l, storage)))
    encoded = EncodeText(clip, text_g, embeddings, {"clip_l": text_l})
    sizes = {"width": width, "height": height, "crop_w": crop_w, "crop_h": crop_h}
    return WithOptions(encoded, {**sizes, "target_width": target_width, "target_height": target_height})


@node("CLIPTextEncodeSDXLRefiner", category="advanced/conditioning", module="comfy_extras.nodes_clip_sdxl")
def clip_text_encode_sdxl_refiner(
    *,
    ascore: Annotated[float, Float(0.0, 1000.0, step=0.01)] = 6.0,
    width: Side = 1024,
    height: Side = 1024,
    text: Prompt,
    clip: Clip,
    storage: Storage,
) -> Op[Conditioning]:
    """A prompt for SDXL's refiner, with how much the picture shall please (`ascore`) and its size."""
    encoded = EncodeText(clip, text, embeddings_in(text, storage))
    return WithOptions(encoded, {"aesthetic_score": ascore, "width": width, "height": height})


@node(
    "CLIPTextEncodeControlnet",
    category="_for_testing/conditioning",
    module="comfy_extras.nodes_cond",
    experimental=True,
)
def clip_text_encode_controlnet(
    *, clip: Clip, conditioning: Conditioning, text: Prompt, storage: Storage
) -> Op[Conditioning]:
    """A text for the ControlNets of a conditioning, which otherwise read what the model reads."""
    return WithControlText(conditioning, EncodeText(clip, text, embeddings_in(text, storage)))


# What Lumina-Image 2.0 was trained to be told before a prompt, by its authors' names.
LUMINA_SYSTEM = {
    "superior": "You are an assistant designed to generate superior images with the superior degree of "
    "image-text alignment based on textual prompts or user prompts.",
    "alignment": "You are an assistant designed to generate high-quality images with the highest degree of "
    "image-text alignment based on textual prompts.",
}


@node(
    "CLIPTextEncodeLumina2",
    category="conditioning",
    display_name="CLIP Text Encode for Lumina2",
    module="comfy_extras.nodes_lumina2",
)
def clip_text_encode_lumina2(
    *,
    system_prompt: Annotated[str, one_of(*LUMINA_SYSTEM)],
    user_prompt: Prompt,
    clip: Clip,
    storage: Storage,
) -> Op[Conditioning]:
    """A prompt behind one of the two system prompts of Lumina-Image 2.0."""
    text = f"{LUMINA_SYSTEM[system_prompt]} <Prompt Start> {user_prompt}"
    return EncodeText(clip, text, embeddings_in(text, storage))
