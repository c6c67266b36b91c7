"""Models written to files, as ComfyUI writes them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from backend.node import Boolean, Int, Result, String, node
from backend.references import Clip, ClipVision, Model, Vae
from backend.settings import Settings
from backend.storage import Storage
from nodes.image_files import ExtraInfo, Prompt, embedded_text
from nodes.text import one_of

if TYPE_CHECKING:
    from backend.models.saved import Entry

CATEGORY = "advanced/model_merging"
MODULE = "comfy_extras.nodes_model_merging"
Parts: TypeAlias = tuple[Model, Clip | None, Vae | None, ClipVision | None]


def about(settings: Settings, prompt: object, extra: object) -> dict[str, str]:
    """What is said of the workflow: nothing where metadata are off, else an empty prompt at least."""
    if settings.disable_metadata:
        return {}
    return {"prompt": "", **embedded_text(settings, prompt, extra)}


def written(
    storage: Storage, prefix: str, entries: "Mapping[str, Entry]", metadata: Mapping[str, str] | None
) -> None:
    """One file of the output folder."""
    from backend.models.saved import write  # here, because it loads torch

    with storage.reserve("output", prefix) as slots:
        write(slots.folder / slots.file(0, ".safetensors"), entries, metadata)


def checkpoint_written(storage: Storage, prefix: str, parts: Parts, told: Mapping[str, str]) -> None:
    """A checkpoint, or a denoiser alone, with what its metadata say of the model."""
    from backend.models.saved import checkpoint_entries, checkpoint_facts, write

    entries = checkpoint_entries(*parts)
    with storage.reserve("output", prefix) as slots:
        facts = checkpoint_facts(parts[0], f"{slots.name} {slots.first}")
        write(slots.folder / slots.file(0, ".safetensors"), entries, {**facts, **told})


@node("CheckpointSave", category=CATEGORY, display_name="Save Checkpoint", module=MODULE, output_node=True)
def checkpoint_save(
    *,
    model: Model,
    clip: Clip,
    vae: Vae,
    filename_prefix: str = "checkpoints/ComfyUI",
    prompt: Prompt = None,
    extra_pnginfo: ExtraInfo = None,
    storage: Storage,
    settings: Settings,
) -> Result:
    """Write model, text encoders and VAE into one file; LoRAs are baked in."""
    told = about(settings, prompt, extra_pnginfo)
    checkpoint_written(storage, filename_prefix, (model, clip, vae, None), told)
    return Result()


@node(
    "ImageOnlyCheckpointSave",
    category=CATEGORY,
    module="comfy_extras.nodes_video_model",
    output_node=True,
)
def image_only_checkpoint_save(
    *,
    model: Model,
    clip_vision: ClipVision,
    vae: Vae,
    filename_prefix: str = "checkpoints/ComfyUI",
    prompt: Prompt = None,
    extra_pnginfo: ExtraInfo = None,
    storage: Storage,
    settings: Settings,
) -> Result:
    """Write a model that is steered by pictures, with its image encoder and VAE, into one file."""
    told = about(settings, prompt, extra_pnginfo)
    checkpoint_written(storage, filename_prefix, (model, None, vae, clip_vision), told)
    return Result()


@node("ModelSave", category=CATEGORY, module=MODULE, output_node=True)
def model_save(
    *,
    model: Model,
    filename_prefix: str = "diffusion_models/ComfyUI",
    prompt: Prompt = None,
    extra_pnginfo: ExtraInfo = None,
    storage: Storage,
    settings: Settings,
) -> Result:
    """Write a denoiser into a file of its own; LoRAs are baked in."""
    told = about(settings, prompt, extra_pnginfo)
    checkpoint_written(storage, filename_prefix, (model, None, None, None), told)
    return Result()


@node("CLIPSave", category=CATEGORY, module=MODULE, output_node=True)
def clip_save(
    *,
    clip: Clip,
    filename_prefix: str = "clip/ComfyUI",
    prompt: Prompt = None,
    extra_pnginfo: ExtraInfo = None,
    storage: Storage,
    settings: Settings,
) -> Result:
    """Write each text encoder into a file of its own; LoRAs are baked in."""
    from backend.models.saved import encoder_files

    told = about(settings, prompt, extra_pnginfo)
    for end, entries in encoder_files(clip).items():
        prefix = f"{filename_prefix}_{end}" if end else filename_prefix
        written(storage, prefix, entries, {"format": "pt", **told} if told else {})
    return Result()


@node("VAESave", category=CATEGORY, module=MODULE, output_node=True)
def vae_save(
    *,
    vae: Vae,
    filename_prefix: str = "vae/ComfyUI_vae",
    prompt: Prompt = None,
    extra_pnginfo: ExtraInfo = None,
    storage: Storage,
    settings: Settings,
) -> Result:
    """Write a VAE into a file of its own."""
    from backend.models.saved import vae_entries

    written(storage, filename_prefix, vae_entries(vae), about(settings, prompt, extra_pnginfo))
    return Result()


@node(
    "LoraSave",
    category="_for_testing",
    display_name="Extract and Save Lora",
    module="comfy_extras.nodes_lora_extract",
    output_node=True,
    experimental=True,
)
def lora_save(
    *,
    filename_prefix: Annotated[str, String(multiline=False)] = "loras/ComfyUI_extracted_lora",
    rank: Annotated[int, Int(1, 4096, step=1)] = 8,
    lora_type: Annotated[Literal["standard", "full_diff"], one_of("standard", "full_diff")],
    bias_diff: Annotated[bool, Boolean()] = True,
    model_diff: Model | None = None,
    text_encoder_diff: Clip | None = None,
    prompt: Prompt = None,
    extra_pnginfo: ExtraInfo = None,
    storage: Storage,
) -> Result:
    """Write the difference of two models, as ModelMergeSubtract makes it, as a LoRA."""
    if model_diff is None and text_encoder_diff is None:
        return Result()
    from backend.models.extract import lora_entries

    entries = lora_entries(model_diff, text_encoder_diff, rank, lora_type, bias_diff)
    written(storage, filename_prefix, entries, None)
    return Result()
