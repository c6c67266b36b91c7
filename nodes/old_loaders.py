"""Loaders that old workflows use: a checkpoint with its training configuration, a folder of diffusers."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Annotated

from backend.components import File
from backend.errors import BadFile
from backend.library import Library
from backend.models.text_places import chosen_encoding
from backend.node import Choice, node
from backend.patches import DiscreteSampling
from backend.references import Clip, Model, Vae
from backend.storage import Storage
from nodes.loaders import checkpoint_parts

_DIFFUSION = tuple(
    f"diffusion_pytorch_model{precision}.{ending}"
    for ending in ("safetensors", "bin")
    for precision in (".fp16", "")
)
_TEXT = ("model.fp16.safetensors", "model.safetensors", "pytorch_model.fp16.bin", "pytorch_model.bin")


@node(
    "CheckpointLoader",
    category="advanced/loaders",
    display_name="Load Checkpoint With Config (DEPRECATED)",
    deprecated=True,
)
def checkpoint_loader(
    *,
    config_name: Annotated[str, Choice(lambda s: s.files("configs"))],
    ckpt_name: Annotated[str, Choice(lambda s: s.files("checkpoints"))],
    storage: Storage,
    library: Library,
) -> tuple[Model, Clip, Vae]:
    """A checkpoint, and from its configuration whether it predicts v and where its text encoder stops."""
    model, clip, vae = checkpoint_parts(storage.file("checkpoints", ckpt_name), library)
    parameters = _part(storage.config(config_name), "model", "params")
    if parameters.get("parameterization") == "v":
        model = model.with_patch(DiscreteSampling("v_prediction", False))
    layer = _part(parameters, "cond_stage_config", "params").get("layer_idx")
    return model, replace(clip, stop_at=layer) if isinstance(layer, int) else clip, vae


@node("DiffusersLoader", category="advanced/loaders/deprecated", display_name="DiffusersLoader")
def diffusers_loader(
    *, model_path: Annotated[str, Choice(lambda s: s.pipelines())], storage: Storage, library: Library
) -> tuple[Model, Clip, Vae]:
    """The UNet, text encoders and VAE in a folder that diffusers saved."""
    unet = _first(storage, f"{model_path}/unet", _DIFFUSION)
    vae = _first(storage, f"{model_path}/vae", _DIFFUSION)
    texts = [_first(storage, f"{model_path}/text_encoder", _TEXT)]
    with suppress(BadFile):
        texts.append(_first(storage, f"{model_path}/text_encoder_2", _TEXT))
    encoders = library.encoders(*texts)
    encoding = chosen_encoding("stable_diffusion", [weights.part for weights in encoders])
    return (
        Model(library.weights("denoiser", unet)),
        Clip(encoders, encoding),
        Vae(library.weights("vae", vae)),
    )


def _first(storage: Storage, folder: str, names: tuple[str, ...]) -> File:
    """The first of these files that is there. Raises: BadFile where none is."""
    for name in names[:-1]:
        with suppress(BadFile):
            return storage.file("diffusers", f"{folder}/{name}")
    return storage.file("diffusers", f"{folder}/{names[-1]}")


def _part(config: Mapping[str, object], *names: str) -> Mapping[str, object]:
    """A section within sections; empty where it is not there."""
    for name in names:
        inner = config.get(name)
        config = inner if isinstance(inner, Mapping) else {}
    return config
