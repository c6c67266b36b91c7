"""Prompts for several text encoders, and for encoders that see pictures."""

from dataclasses import replace
from typing import Annotated

from backend.models.text_places import EDIT_FRAME
from backend.node import Choice, Int, String, node
from backend.ops import EncodePixels, EncodeText, Lazy, Op, ScalePixels, WithOptions
from backend.references import Clip, Vae
from backend.storage import Storage
from backend.types import Conditioning, Image
from nodes.conditioning import embeddings_in

Prompt = Annotated[str, String(multiline=True, dynamic_prompts=True)]
TESTING = "_for_testing/conditioning"
SEEN, SHOWN = 384 * 384, 1024 * 1024  # pixels of a picture: for the text encoder, and for the model


@node("CLIPTextEncodeSD3", category="advanced/conditioning", module="comfy_extras.nodes_sd3")
def clip_text_encode_sd3(
    *,
    clip: Clip,
    clip_l: Prompt,
    clip_g: Prompt,
    t5xxl: Prompt,
    empty_padding: Annotated[str, Choice(("none", "empty_prompt"), style="COMBO", multiselect=False)],
    storage: Storage,
) -> Op[Conditioning]:
    """Encode a prompt for each of SD3's text encoders; an empty one counts for nothing, or as an empty
    prompt.
    """
    texts = {"clip_l": clip_l, "clip_g": clip_g, "t5xxl": t5xxl}
    empty = tuple(part for part, text in texts.items() if not text) if empty_padding == "none" else ()
    embeddings = embeddings_in(" ".join(texts.values()), storage)
    return EncodeText(clip, clip_g, embeddings, texts, left_out=empty)


@node("T5TokenizerOptions", category=TESTING, module="comfy_extras.nodes_cond", experimental=True)
def t5_tokenizer_options(
    *,
    clip: Clip,
    min_padding: Annotated[int, Int(0, 10000, step=1)] = 0,
    min_length: Annotated[int, Int(0, 10000, step=1)] = 0,
) -> Clip:
    """How T5 fills short prompts up."""
    kinds = ("t5xxl", "pile_t5xl", "t5base", "mt5xl", "umt5xxl")
    paddings = {f"{kind}_min_padding": min_padding for kind in kinds}
    lengths = {f"{kind}_min_length": min_length for kind in kinds}
    return replace(clip, options=tuple({**dict(clip.options), **paddings, **lengths}.items()))


@node("TextEncodeQwenImageEdit", category="advanced/conditioning", module="comfy_extras.nodes_qwen")
def text_encode_qwen_image_edit(
    *, clip: Clip, prompt: Prompt, vae: Vae | None = None, image: Image | None = None
) -> Op[Conditioning]:
    """Encode what is to become of a picture, which the text encoder and the model are shown."""
    if image is None:
        return EncodeText(clip, prompt)
    scaled = ScalePixels(image, SHOWN)
    encoded = EncodeText(clip, prompt, images=(scaled,))
    return encoded if vae is None else _with_references(encoded, (EncodePixels(vae, scaled),))


@node("TextEncodeQwenImageEditPlus", category="advanced/conditioning", module="comfy_extras.nodes_qwen")
def text_encode_qwen_image_edit_plus(
    *,
    clip: Clip,
    prompt: Prompt,
    vae: Vae | None = None,
    image1: Image | None = None,
    image2: Image | None = None,
    image3: Image | None = None,
) -> Op[Conditioning]:
    """The same with up to three pictures, which the prompt calls Picture 1, 2 and 3."""
    given = {number: image for number, image in enumerate((image1, image2, image3), 1) if image is not None}
    named = "".join(f"Picture {n}: <|vision_start|><|image_pad|><|vision_end|>" for n in given)
    seen = tuple(ScalePixels(image, SEEN) for image in given.values())
    encoded = EncodeText(clip, EDIT_FRAME.format(named + prompt), images=seen)
    if vae is None or not given:
        return encoded
    shown = tuple(EncodePixels(vae, ScalePixels(image, SHOWN, multiple=8)) for image in given.values())
    return _with_references(encoded, shown)


def _with_references(conditioning: Op[Conditioning], latents: tuple[Lazy[object], ...]) -> Op[Conditioning]:
    """Each latent after those that are there."""
    for latent in latents:
        conditioning = WithOptions(conditioning, appended={"reference_latents": latent})
    return conditioning
