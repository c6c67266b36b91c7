"""Flux.1: its guidance, and pictures that it edits."""

from typing import Annotated

from backend.node import Choice, Float, String, node
from backend.ops import EncodeText, Op, WithOptions
from backend.references import Clip
from backend.resize import resize
from backend.storage import Storage
from backend.types import Conditioning, Image, Latent
from nodes.conditioning import embeddings_in, with_options

FLUX = "advanced/conditioning/flux"
MODULE = "comfy_extras.nodes_flux"
Prompt = Annotated[str, String(multiline=True, dynamic_prompts=True)]
Guidance = Annotated[float, Float(0.0, 100.0, step=0.1)]
# Width and height of pictures that Kontext was trained with, by aspect ratio.
KONTEXT_SIZES = (
    *((672, 1568), (688, 1504), (720, 1456), (752, 1392), (800, 1328), (832, 1248), (880, 1184), (944, 1104)),
    (1024, 1024),
    *((1104, 944), (1184, 880), (1248, 832), (1328, 800), (1392, 752), (1456, 720), (1504, 688), (1568, 672)),
)


@node("CLIPTextEncodeFlux", category=FLUX, module=MODULE)
def clip_text_encode_flux(
    *, clip: Clip, clip_l: Prompt, t5xxl: Prompt, guidance: Guidance = 3.5, storage: Storage
) -> Op[Conditioning]:
    """Encode a prompt for each of Flux's text encoders."""
    texts = {"clip_l": clip_l, "t5xxl": t5xxl}
    embeddings = embeddings_in(f"{clip_l} {t5xxl}", storage)
    return WithOptions(EncodeText(clip, clip_l, embeddings, texts), {"guidance": guidance})


@node("FluxGuidance", category=FLUX, module=MODULE)
def flux_guidance(*, conditioning: Conditioning, guidance: Guidance = 3.5) -> Conditioning:
    """How strongly a guidance-distilled model follows the prompt."""
    return with_options(conditioning, {"guidance": guidance})


@node("FluxDisableGuidance", category=FLUX, module=MODULE)
def flux_disable_guidance(*, conditioning: Conditioning) -> Conditioning:
    """The model's guidance input is left out altogether."""
    return with_options(conditioning, {"guidance": None})


@node("FluxKontextImageScale", category=FLUX, module=MODULE)
def flux_kontext_image_scale(*, image: Image) -> Image:
    """The image in the size nearest to its aspect ratio that Kontext knows."""
    height, width = image.shape[1:3]
    _, width, height = min((abs(width / height - w / h), w, h) for w, h in KONTEXT_SIZES)
    return resize(image.movedim(-1, 1), width, height, "lanczos", "center").movedim(1, -1)


@node("FluxKontextMultiReferenceLatentMethod", category=FLUX, module=MODULE, experimental=True)
def flux_kontext_multi_reference_latent_method(
    *,
    conditioning: Conditioning,
    reference_latents_method: Annotated[
        str, Choice(("offset", "index", "uxo/uno"), style="COMBO", multiselect=False)
    ],
) -> Conditioning:
    """How several reference pictures are placed: side by side, by number, or beyond the picture's corner."""
    method = "uxo" if "uxo" in reference_latents_method else reference_latents_method
    return with_options(conditioning, {"reference_latents_method": method})


@node("ReferenceLatent", category="advanced/conditioning/edit_models", module="comfy_extras.nodes_edit_model")
def reference_latent(*, conditioning: Conditioning, latent: Latent | None = None) -> Conditioning:
    """One more picture that an edit model is shown."""
    if latent is None:
        return conditioning
    return tuple(
        with_options((cond,), {"reference_latents": (*_references(cond.options), latent.samples)})[0]
        for cond in conditioning
    )


def _references(options: object) -> tuple[object, ...]:
    found = options.get("reference_latents", ()) if hasattr(options, "get") else ()
    return tuple(found)
