"""Loaders: file names -> references. They read no weights: the library knows what a file holds."""

from dataclasses import replace
from typing import Annotated

from backend.components import File
from backend.errors import UnsupportedOption
from backend.library import Library
from backend.models.text_places import chosen_encoding
from backend.node import Choice, Float, Int, node
from backend.references import Clip, Model, Vae
from backend.storage import Storage

# A tiny autoencoder is two files of vae_approx: name -> the stems of its encoder and decoder.
TINY_AUTOENCODERS = {
    name: (f"{name}_encoder", f"{name}_decoder") for name in ("taesd", "taesdxl", "taesd3", "taef1")
}
CLIP_TYPES = (
    "stable_diffusion",
    "stable_cascade",
    "sd3",
    "stable_audio",
    "mochi",
    "ltxv",
    "pixart",
    "cosmos",
    "lumina2",
    "wan",
    "hidream",
    "chroma",
    "ace",
    "omnigen2",
    "qwen_image",
    "hunyuan_image",
)
TextEncoderName = Annotated[str, Choice(lambda s: s.files("text_encoders"))]
ListedEncoder = Annotated[str, Choice(lambda s: s.files("text_encoders"), style="COMBO", multiselect=False)]
ClipDevice = Annotated[str, Choice(("default", "cpu"), advanced=True)]
LoraStrength = Annotated[float, Float(-100.0, 100.0, step=0.01)]


def vae_names(storage: Storage) -> list[str]:
    """VAE files, the tiny autoencoders whose two files are there, and `pixel_space`."""
    approximate = [name.partition(".")[0] for name in storage.files("vae_approx")]
    tiny = [name for name, stems in TINY_AUTOENCODERS.items() if all(stem in approximate for stem in stems)]
    return [*storage.files("vae"), *tiny, "pixel_space"]


@node("CheckpointLoaderSimple", category="loaders", display_name="Load Checkpoint")
def checkpoint_loader_simple(
    *,
    ckpt_name: Annotated[str, Choice(lambda s: s.files("checkpoints"))],
    storage: Storage,
    library: Library,
) -> tuple[Model, Clip, Vae]:
    """A checkpoint's denoiser, text encoders and VAE."""
    return checkpoint_parts(storage.file("checkpoints", ckpt_name), library)


def checkpoint_parts(file: File, library: Library) -> tuple[Model, Clip, Vae]:
    """References to what a checkpoint holds. Raises: Awaiting."""
    return (
        Model(library.weights("denoiser", file)),
        Clip(library.encoders(file), library.encoding(file) or "sd15"),
        Vae(library.weights("vae", file)),
    )


@node("UNETLoader", category="advanced/loaders", display_name="Load Diffusion Model")
def unet_loader(
    *,
    unet_name: Annotated[str, Choice(lambda s: s.files("diffusion_models"))],
    weight_dtype: Annotated[str, Choice(("default", "fp8_e4m3fn", "fp8_e4m3fn_fast", "fp8_e5m2"))],
    library: Library,
) -> Model:
    """A denoiser from a file of its own; its weights may be cast to an eighth format, which halves their
    memory.

    "_fast" asks for products in that format, which no device here makes: the numbers are those without it.
    """
    weights = library.find("denoiser", "diffusion_models", unet_name)
    if weight_dtype == "default":
        return Model(weights)
    return Model(weights.narrowed(weight_dtype.removesuffix("_fast")))


@node("CLIPLoader", category="advanced/loaders", display_name="Load CLIP")
def clip_loader(
    *,
    clip_name: TextEncoderName,
    type: Annotated[str, Choice(CLIP_TYPES)],
    device: ClipDevice | None = None,
    storage: Storage,
    library: Library,
) -> Clip:
    """A text encoder from a file of its own. The scheduler chooses where it runs, whatever `device` asks."""
    return _encoders(library, storage, type, clip_name)


@node("DualCLIPLoader", category="advanced/loaders")
def dual_clip_loader(
    *,
    clip_name1: TextEncoderName,
    clip_name2: TextEncoderName,
    type: Annotated[str, Choice(("sdxl", "sd3", "flux", "hunyuan_video", "hidream", "hunyuan_image"))],
    device: ClipDevice | None = None,
    storage: Storage,
    library: Library,
) -> Clip:
    """Two text encoders that work together; their order does not matter."""
    return _encoders(library, storage, type, clip_name1, clip_name2)


@node("TripleCLIPLoader", category="advanced/loaders", module="comfy_extras.nodes_sd3")
def triple_clip_loader(
    *,
    clip_name1: ListedEncoder,
    clip_name2: ListedEncoder,
    clip_name3: ListedEncoder,
    storage: Storage,
    library: Library,
) -> Clip:
    """The three text encoders of SD3; their order does not matter."""
    return _encoders(library, storage, "sd3", clip_name1, clip_name2, clip_name3)


def _encoders(library: Library, storage: Storage, type: str, *names: str) -> Clip:
    """The text encoders in files of their own, for what the user says they are meant for."""
    found = library.encoders(*(storage.file("text_encoders", name) for name in names))
    return Clip(found, chosen_encoding(type, [weights.part for weights in found]))


@node("VAELoader", category="loaders", display_name="Load VAE")
def vae_loader(*, vae_name: Annotated[str, Choice(vae_names)], storage: Storage, library: Library) -> Vae:
    """A VAE from a file of its own, or a tiny autoencoder."""
    if vae_name == "pixel_space":
        raise UnsupportedOption("vae_name", vae_name, "Pixel-space models are not served: pick a VAE file.")
    if vae_name in TINY_AUTOENCODERS:
        available = {name.partition(".")[0]: name for name in storage.files("vae_approx")}
        names = [available.get(stem, stem) for stem in TINY_AUTOENCODERS[vae_name]]
        return Vae(library.find("vae", "vae_approx", *names), vae_name)
    return Vae(library.find("vae", "vae", vae_name))


@node("LoraLoader", category="loaders", display_name="Load LoRA")
def lora_loader(
    *,
    model: Model,
    clip: Clip,
    lora_name: Annotated[str, Choice(lambda s: s.files("loras"))],
    strength_model: LoraStrength = 1.0,
    strength_clip: LoraStrength = 1.0,
    library: Library,
) -> tuple[Model, Clip]:
    """The model and the text encoder with a LoRA applied; a strength of 0 leaves its side as it is."""
    if strength_model == 0 and strength_clip == 0:
        return model, clip
    lora = library.find("lora", "loras", lora_name)
    return model.with_lora(lora, strength_model), clip.with_lora(lora, strength_clip)


@node("LoraLoaderModelOnly", category="loaders")
def lora_loader_model_only(
    *,
    model: Model,
    lora_name: Annotated[str, Choice(lambda s: s.files("loras"))],
    strength_model: LoraStrength = 1.0,
    library: Library,
) -> Model:
    """The model with a LoRA applied."""
    if strength_model == 0:
        return model
    return model.with_lora(library.find("lora", "loras", lora_name), strength_model)


@node("CLIPSetLastLayer", category="conditioning", display_name="CLIP Set Last Layer")
def clip_set_last_layer(*, clip: Clip, stop_at_clip_layer: Annotated[int, Int(-24, -1, step=1)] = -1) -> Clip:
    """A text encoder that stops at a layer, counted from the end: -1 is the last."""
    return replace(clip, stop_at=stop_at_clip_layer)
