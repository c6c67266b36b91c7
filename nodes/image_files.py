"""Pictures read from and written to files."""

import json
from collections.abc import Mapping
from typing import Annotated

from backend.deferred import torch
from backend.media import Channel, encode_png, read_channel, read_picture, to_floats, to_pixels
from backend.node import Choice, HiddenInput, Result, Widget, node
from backend.settings import Settings
from backend.storage import PlaceKind, Storage
from backend.types import Image, Mask

Prompt = Annotated[object, HiddenInput("PROMPT")]
ExtraInfo = Annotated[object, HiddenInput("EXTRA_PNGINFO")]
NO_MASK_SIDE = 64  # the size of the empty mask that stands for "no transparency"


def fingerprint_of(storage: Storage, name: object) -> object:
    """What a file holds, by content; something that equals nothing where it can't be told."""
    return storage.digest(name) if isinstance(name, str) else object()


def image_fingerprint(*, image: object, storage: Storage, **_: object) -> object:
    """The content of the named picture."""
    return fingerprint_of(storage, image)


def image_exists(*, image: object, storage: Storage, **_: object) -> bool | str:
    """Whether the picture is there; a linked name is looked at when it is known."""
    if image is None or (isinstance(image, str) and storage.has(image)):
        return True
    return f"Invalid image file: {image}"


@node(
    "LoadImage",
    category="image",
    display_name="Load Image",
    fingerprint=image_fingerprint,
    validate=image_exists,
    validates=("image",),
)
def load_image(
    *, image: Annotated[str, Choice(lambda s: s.input_files("image"), image_upload=True)], storage: Storage
) -> tuple[Image, Mask]:
    """A picture of the input folder, and 1 - alpha; several frames become a batch."""
    return opened(storage, image)


def opened(storage: Storage, image: str) -> tuple[Image, Mask]:
    """Pixels, and 1 - alpha: [N, 64, 64] zeros where there is no alpha. Raises: BadFile."""
    picture = read_picture(storage.annotated(image))
    pixels = torch.from_numpy(to_floats(picture.rgb))
    if picture.alpha is None:
        return pixels, torch.zeros((pixels.shape[0], NO_MASK_SIDE, NO_MASK_SIDE))
    return pixels, 1.0 - torch.from_numpy(to_floats(picture.alpha))


OUTPUT_PICTURES: Mapping[str, object] = {
    "image_upload": True,
    "image_folder": "output",
    "remote": {
        "route": "/internal/files/output",
        "refresh_button": True,
        "control_after_refresh": "first",
    },
}


@node(
    "LoadImageOutput",
    category="image",
    display_name="Load Image (from Outputs)",
    fingerprint=image_fingerprint,
    validate=image_exists,
    validates=("image",),
    experimental=True,
)
def load_image_output(
    *, image: Annotated[str, Widget(OUTPUT_PICTURES, "COMBO")], storage: Storage
) -> tuple[Image, Mask]:
    """A picture of the output folder; the front end fetches the list of names itself."""
    return opened(storage, image)


@node(
    "LoadImageMask",
    category="mask",
    display_name="Load Image (as Mask)",
    fingerprint=image_fingerprint,
    validate=image_exists,
    validates=("image",),
)
def load_image_mask(
    *,
    image: Annotated[str, Choice(lambda s: s.input_files(), image_upload=True)],
    channel: Annotated[str, Choice(("alpha", "red", "green", "blue"))],
    storage: Storage,
) -> Mask:
    """One channel of a picture as a mask; alpha is inverted: what is transparent is masked."""
    letter: Channel = channel[0].upper()  # type: ignore[assignment]  # the choices begin with R, G, B and A
    mask = torch.from_numpy(to_floats(read_channel(storage.annotated(image), letter)))
    return (1.0 - mask if letter == "A" else mask).unsqueeze(0)


@node("SaveImage", category="image", display_name="Save Image", output_node=True)
def save_image(
    *,
    images: Image,
    filename_prefix: str = "ComfyUI",
    prompt: Prompt = None,
    extra_pnginfo: ExtraInfo = None,
    storage: Storage,
    settings: Settings,
) -> Result:
    """Write PNG files into the output folder, with the workflow that made them."""
    text = embedded_text(settings, prompt, extra_pnginfo)
    return save_pngs(storage, "output", filename_prefix, images, text)


@node("PreviewImage", category="image", display_name="Preview Image", output_node=True)
def preview_image(
    *,
    images: Image,
    prompt: Prompt = None,
    extra_pnginfo: ExtraInfo = None,
    storage: Storage,
    settings: Settings,
) -> Result:
    """Show pictures without keeping them."""
    text = embedded_text(settings, prompt, extra_pnginfo)
    return save_pngs(storage, "temp", f"ComfyUI_temp_{storage.temp_tag}", images, text)


def embedded_text(settings: Settings, prompt: object, extra: object) -> dict[str, str]:
    """What goes into saved files, JSON by key: the prompt, and every entry of `extra_pnginfo` (workflow)."""
    if settings.disable_metadata:
        return {}
    text = {} if prompt is None else {"prompt": json.dumps(prompt)}
    if isinstance(extra, Mapping):
        text.update((str(key), json.dumps(value)) for key, value in extra.items())
    return text


def save_pngs(
    storage: Storage, kind: PlaceKind, prefix: str, images: Image, text: Mapping[str, str]
) -> Result:
    """One PNG per picture of the batch, and the ui entry that names them."""
    count, height, width = images.shape[:3]
    with storage.reserve(kind, prefix, count, width, height) as slots:
        for index, image in enumerate(images):
            file = encode_png(to_pixels(image.numpy()), text)
            (slots.folder / slots.file(index)).write_bytes(file)
        names = [slots.file(index) for index in range(count)]
    return Result(ui={"images": [{"filename": n, "subfolder": slots.subfolder, "type": kind} for n in names]})
