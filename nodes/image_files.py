"""Pictures read from and written to files."""

import json
import re
from collections.abc import Mapping
from typing import Annotated

from backend.deferred import torch
from backend.media import Channel, encode_png, read_channel, read_picture, to_floats, to_pixels, write_file
from backend.node import Boolean, Choice, HiddenInput, Int, Result, Widget, node
from backend.settings import Settings
from backend.storage import PlaceKind, Storage
from backend.types import Image, Mask, Wire
from nodes.conditioning import MAX_RESOLUTION

Prompt = Annotated[object, HiddenInput("PROMPT")]
ExtraInfo = Annotated[object, HiddenInput("EXTRA_PNGINFO")]
_SVG_TAG = re.compile(r"<svg[^>]*>")
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


Webcam = Annotated[str, Widget({}, "WEBCAM")]


@node(
    "WebcamCapture",
    category="image",
    display_name="Webcam Capture",
    module="comfy_extras.nodes_webcam",
    fingerprint=image_fingerprint,
)
def webcam_capture(
    *,
    image: Webcam,
    width: Annotated[int, Int(0, MAX_RESOLUTION, step=1)] = 0,
    height: Annotated[int, Int(0, MAX_RESOLUTION, step=1)] = 0,
    capture_on_queue: Annotated[bool, Boolean()] = True,
    storage: Storage,
) -> Image:
    """What the page's camera saw; the page takes the picture in this size and uploads it."""
    return opened(storage, image)[0]


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
        for index, image in enumerate(images.numpy()):
            write_file(slots.folder, slots.file(index), encode_png(to_pixels(image), text))
        names = [slots.file(index) for index in range(count)]
    return Result(ui={"images": [{"filename": n, "subfolder": slots.subfolder, "type": kind} for n in names]})


def always_new(**_: object) -> object:
    """Equal to nothing, so that the node runs for every prompt."""
    return object()


@node(
    "SaveImageWebsocket",
    category="api/image",
    module="custom_nodes.websocket_image_save",
    output_node=True,
    fingerprint=always_new,
)
def save_image_websocket(*, images: Image) -> Result:
    """Send pictures to the client as PNG, without metadata; nothing is written."""
    return Result(pictures=tuple(encode_png(to_pixels(image.numpy())) for image in images))


Svg = Annotated[object, Wire("SVG")]  # has `data`, a list of binary streams of UTF-8 texts


@node("SaveSVGNode", category="image/save", module="comfy_extras.nodes_images", output_node=True)
def save_svg(
    *,
    svg: Svg,
    filename_prefix: str = "svg/ComfyUI",
    prompt: Prompt = None,
    extra_pnginfo: ExtraInfo = None,
    storage: Storage,
    settings: Settings,
) -> Result:
    """Write SVG files into the output folder, with the workflow that made them as a <metadata> element."""
    about = "" if settings.disable_metadata else svg_metadata(prompt, extra_pnginfo)
    texts = _svg_texts(svg)
    with storage.reserve("output", filename_prefix, len(texts)) as slots:
        names = [slots.file(index, ".svg") for index in range(len(texts))]
        for name, text in zip(names, texts, strict=True):
            told = _SVG_TAG.sub(lambda tag: f"{tag[0]}\n{about}", text, count=1) if about else text
            write_file(slots.folder, name, told.encode())
    items = [{"filename": name, "subfolder": slots.subfolder, "type": "output"} for name in names]
    return Result(ui={"images": items})


def svg_metadata(prompt: object, extra: object) -> str:
    """The element that holds the prompt and all of `extra_pnginfo` as JSON; "" where there is none."""
    told = {} if prompt is None else {"prompt": prompt}
    if isinstance(extra, Mapping):
        told.update(extra)
    return f"<metadata>\n<![CDATA[\n{json.dumps(told, indent=2)}\n]]>\n</metadata>\n" if told else ""


def _svg_texts(svg: object) -> list[str]:
    """Raises: TypeError for a value that is no SVG."""
    streams = getattr(svg, "data", None)
    if not isinstance(streams, list):
        raise TypeError(
            f"svg is a {type(svg).__name__} without a list `data`: connect a node that makes SVG."
        )
    texts = []
    for stream in streams:
        stream.seek(0)
        texts.append(stream.read().decode("utf-8"))
    return texts
