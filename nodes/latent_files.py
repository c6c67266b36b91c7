"""Latents read from and written to files."""

from typing import Annotated

from backend.deferred import torch
from backend.media import encode_latent, read_latent, write_file
from backend.node import Choice, Result, node
from backend.settings import Settings
from backend.storage import Storage
from backend.types import Latent
from nodes.image_files import ExtraInfo, Prompt, embedded_text, fingerprint_of


def latent_fingerprint(*, latent: object, storage: Storage, **_: object) -> object:
    """The content of the named latent file."""
    return fingerprint_of(storage, latent)


def latent_exists(*, latent: object, storage: Storage, **_: object) -> bool | str:
    """Whether the file is there; a linked name is looked at when it is known."""
    if latent is None or (isinstance(latent, str) and storage.has(latent)):
        return True
    return f"Invalid latent file: {latent}"


@node("SaveLatent", category="_for_testing", output_node=True)
def save_latent(
    *,
    samples: Latent,
    filename_prefix: str = "latents/ComfyUI",
    prompt: Prompt = None,
    extra_pnginfo: ExtraInfo = None,
    storage: Storage,
    settings: Settings,
) -> Result:
    """Write a latent into the output folder, with the workflow that made it."""
    text = None
    if not settings.disable_metadata:
        text = {"prompt": "", **embedded_text(settings, prompt, extra_pnginfo)}
    with storage.reserve("output", filename_prefix) as slots:
        name = slots.file(0, ".latent")
        write_file(slots.folder, name, encode_latent(samples.samples.float().numpy(), text))
    return Result(ui={"latents": [{"filename": name, "subfolder": slots.subfolder, "type": "output"}]})


@node(
    "LoadLatent",
    category="_for_testing",
    fingerprint=latent_fingerprint,
    validate=latent_exists,
    validates=("latent",),
)
def load_latent(
    *,
    latent: Annotated[str, Choice(lambda s: [n for n in s.input_files() if n.endswith(".latent")])],
    storage: Storage,
) -> Latent:
    """A latent of the input folder."""
    return Latent(torch.from_numpy(read_latent(storage.annotated(latent))))
