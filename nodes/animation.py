"""Batches saved as moving pictures."""

from typing import Annotated

from backend.media import Animation, Pixels, encode_apng, encode_webp, to_pixels, write_file
from backend.node import Boolean, Choice, Float, Int, Result, node
from backend.settings import Settings
from backend.storage import Storage
from backend.types import Image
from nodes.image_files import ExtraInfo, Prompt, embedded_text

CATEGORY = "image/animation"
MODULE = "comfy_extras.nodes_images"
Fps = Annotated[float, Float(0.01, 1000.0, step=0.01)]
EFFORTS = {"default": 4, "fastest": 0, "slowest": 6}


def frames_of(images: Image) -> list[Pixels]:
    """Raises: ValueError for an empty batch."""
    if not len(images):
        raise ValueError("images is an empty batch: there is nothing to save. Connect at least one picture.")
    return list(to_pixels(images.numpy()))


def saved(
    storage: Storage, prefix: str, images: Image, extension: str, file: bytes, animated: bool
) -> Result:
    """One file of the output folder, and the ui entry that names it."""
    with storage.reserve("output", prefix, 1, images.shape[2], images.shape[1]) as slots:
        name = slots.file(0, extension)
        write_file(slots.folder, name, file)
    item = {"filename": name, "subfolder": slots.subfolder, "type": "output"}
    return Result(ui={"images": [item], "animated": [animated]})


@node("SaveAnimatedWEBP", category=CATEGORY, module=MODULE, output_node=True)
def save_animated_webp(
    *,
    images: Image,
    filename_prefix: str = "ComfyUI",
    fps: Fps = 6.0,
    lossless: Annotated[bool, Boolean()] = True,
    quality: Annotated[int, Int(0, 100)] = 80,
    method: Annotated[str, Choice(tuple(EFFORTS))],
    prompt: Prompt = None,
    extra_pnginfo: ExtraInfo = None,
    storage: Storage,
    settings: Settings,
) -> Result:
    """Write the batch as an animated WebP into the output folder."""
    how = Animation(fps, lossless, quality, EFFORTS[method])
    file = encode_webp(frames_of(images), how, embedded_text(settings, prompt, extra_pnginfo))
    return saved(storage, filename_prefix, images, ".webp", file, len(images) != 1)


@node("SaveAnimatedPNG", category=CATEGORY, module=MODULE, output_node=True)
def save_animated_png(
    *,
    images: Image,
    filename_prefix: str = "ComfyUI",
    fps: Fps = 6.0,
    compress_level: Annotated[int, Int(0, 9)] = 4,
    prompt: Prompt = None,
    extra_pnginfo: ExtraInfo = None,
    storage: Storage,
    settings: Settings,
) -> Result:
    """Write the batch as an animated PNG into the output folder."""
    text = embedded_text(settings, prompt, extra_pnginfo)
    file = encode_apng(frames_of(images), Animation(fps, effort=compress_level), text)
    return saved(storage, filename_prefix, images, ".png", file, True)
