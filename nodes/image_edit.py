"""Pictures cut, turned, put in batches, put side by side."""

import math
from typing import Annotated

from backend.deferred import torch
from backend.node import Boolean, Choice, Float, HiddenInput, Int, node
from backend.resize import IMAGE_METHODS
from backend.types import Image, Mask
from nodes.composite import to_rows
from nodes.conditioning import MAX_RESOLUTION
from nodes.image import NewSide, Side, resize_image
from nodes.mask import Offset
from nodes.sampling import Seed
from nodes.text import one_of

MODULE = "comfy_extras.nodes_images"
TURNS = ("none", "90 degrees", "180 degrees", "270 degrees")
FLIPS = ("x-axis: vertically", "y-axis: horizontally")
COLOURS = {"white": (1, 1, 1), "black": (0, 0, 0), "red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1)}


@node("ImageCrop", category="image/transform", display_name="Image Crop", module=MODULE)
def image_crop(*, image: Image, width: Side = 512, height: Side = 512, x: Offset = 0, y: Offset = 0) -> Image:
    """A rectangle cut out; at least one pixel."""
    x, y = min(x, image.shape[2] - 1), min(y, image.shape[1] - 1)
    return image[:, y : y + height, x : x + width]


@node("ImageFlip", category="image/transform", module=MODULE)
def image_flip(*, image: Image, flip_method: Annotated[str, Choice(FLIPS)]) -> Image:
    """Mirrored top to bottom or left to right."""
    return image.flip(1 if flip_method == FLIPS[0] else 2)


@node("ImageRotate", category="image/transform", module=MODULE)
def image_rotate(*, image: Image, rotation: Annotated[str, Choice(TURNS)]) -> Image:
    """Turned clockwise."""
    return torch.rot90(image, k=TURNS.index(rotation), dims=[2, 1])


@node("RepeatImageBatch", category="image/batch", module=MODULE)
def repeat_image_batch(*, image: Image, amount: Annotated[int, Int(1, 4096)] = 1) -> Image:
    """The batch, `amount` times over."""
    return image.repeat((amount, 1, 1, 1))


@node("ImageFromBatch", category="image/batch", module=MODULE)
def image_from_batch(
    *, image: Image, batch_index: Annotated[int, Int(0, 4095)] = 0, length: Annotated[int, Int(1, 4096)] = 1
) -> Image:
    """A part of a batch."""
    first = min(image.shape[0] - 1, batch_index)
    return image[first : first + length]


@node(
    "RebatchImages",
    category="image/batch",
    display_name="Rebatch Images",
    module="comfy_extras.nodes_rebatch",
)
def rebatch_images(*, images: list[Image], batch_size: list[Annotated[int, Int(1, 4096)]] = 1) -> list[Image]:  # type: ignore[assignment]  # the default is a widget's
    """Batches of another size."""
    rows = [picture[i : i + 1] for picture in images for i in range(picture.shape[0])]
    size = batch_size[0]
    return [torch.cat(rows[i : i + size]) for i in range(0, len(rows), size)]


@node("ImageAddNoise", category="image", module=MODULE)
def image_add_noise(
    *, image: Image, seed: Seed = 0, strength: Annotated[float, Float(0.0, 1.0, step=0.01)] = 0.5
) -> Image:
    """Seeded normal noise added."""
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
    return (image + strength * noise).clamp(0.0, 1.0)


@node(
    "GetImageSize",
    category="image",
    display_name="Get Image Size",
    module=MODULE,
    outputs=("width", "height", "batch_size"),
)
def get_image_size(
    *, image: Image, unique_id: Annotated[object, HiddenInput("UNIQUE_ID")] = None
) -> tuple[int, int, int]:
    """Width, height and number of pictures."""
    return image.shape[2], image.shape[1], image.shape[0]


@node("ImageScaleToMaxDimension", category="image/upscaling", module=MODULE)
def image_scale_to_max_dimension(
    *,
    image: Image,
    upscale_method: Annotated[
        str, Choice(("area", "lanczos", "bilinear", "nearest-exact", "bilinear", "bicubic"))
    ],
    largest_size: NewSide = 512,
) -> Image:
    """Resize so that the longer side has a length."""
    height, width = image.shape[1:3]
    if height > width:
        width, height = round(width / height * largest_size), largest_size
    elif width > height:
        width, height = largest_size, round(height / width * largest_size)
    else:
        width = height = largest_size
    return resize_image(image, width, height, upscale_method)


@node("ImageScaleToTotalPixels", category="image/upscaling", module="comfy_extras.nodes_post_processing")
def image_scale_to_total_pixels(
    *,
    image: Image,
    upscale_method: Annotated[str, one_of(*IMAGE_METHODS)],
    megapixels: Annotated[float, Float(0.01, 16.0, step=0.01)] = 1.0,
) -> Image:
    """Resize to a number of pixels, in units of 1024 x 1024."""
    height, width = image.shape[1:3]
    factor = math.sqrt(int(megapixels * 1024 * 1024) / (width * height))
    return resize_image(image, round(width * factor), round(height * factor), upscale_method)


@node("ResizeAndPadImage", category="image/transform", module=MODULE)
def resize_and_pad_image(
    *,
    image: Image,
    target_width: Side = 512,
    target_height: Side = 512,
    padding_color: Annotated[str, Choice(("white", "black"))],
    interpolation: Annotated[str, Choice(("area", "bicubic", "nearest-exact", "bilinear", "lanczos"))],
) -> Image:
    """Resize to fit, and fill what is left on both sides."""
    height, width = image.shape[1:3]
    factor = min(target_width / width, target_height / height)
    sized = resize_image(image, int(width * factor), int(height * factor), interpolation)
    top, left = (target_height - sized.shape[1]) // 2, (target_width - sized.shape[2]) // 2
    fill = 0.0 if padding_color == "black" else 1.0
    padded = torch.full((image.shape[0], target_height, target_width, image.shape[3]), fill)
    padded[:, top : top + sized.shape[1], left : left + sized.shape[2]] = sized
    return padded


OutwardSide = Annotated[int, Int(0, MAX_RESOLUTION, step=8)]


@node("ImagePadForOutpaint", category="image", display_name="Pad Image for Outpainting")
def image_pad_for_outpaint(
    *,
    image: Image,
    left: OutwardSide = 0,
    top: OutwardSide = 0,
    right: OutwardSide = 0,
    bottom: OutwardSide = 0,
    feathering: Offset = 40,
) -> tuple[Image, Mask]:
    """Grey borders added, and a mask of them that fades into the picture over `feathering` pixels."""
    _, height, width, _ = image.shape
    padded = torch.nn.functional.pad(image, (0, 0, left, right, top, bottom), value=0.5)
    inner = torch.zeros((height, width))
    if 0 < feathering * 2 < min(height, width):
        down, across = torch.arange(height), torch.arange(width)
        far = torch.tensor(max(height, width))
        rows = torch.minimum(down if top else far, height - down if bottom else far)
        columns = torch.minimum(across if left else far, width - across if right else far)
        distance = torch.minimum(rows.reshape(-1, 1), columns.reshape(1, -1)).expand(height, width)
        inner = ((feathering - distance).clamp(min=0) / feathering) ** 2
    mask = torch.nn.functional.pad(inner, (left, right, top, bottom), value=1.0)
    return padded, mask.unsqueeze(0)


@node("ImageStitch", category="image/transform", display_name="Image Stitch", module=MODULE)
def image_stitch(
    *,
    image1: Image,
    direction: Annotated[str, Choice(("right", "down", "left", "up"))] = "right",
    match_image_size: Annotated[bool, Boolean()] = True,
    spacing_width: Annotated[int, Int(0, 1024, step=2)] = 0,
    spacing_color: Annotated[str, Choice(tuple(COLOURS))] = "white",
    image2: Image | None = None,
) -> Image:
    """The second picture put beside the first."""
    if image2 is None:
        return image1
    rows = max(len(image1), len(image2))
    first, second = _held(image1, rows), _held(image2, rows)
    across = direction in ("left", "right")
    if match_image_size:
        second = _matched(first, second, across)
    else:
        fill = 1.0 if spacing_color == "white" else 0.0
        first, second = _levelled(first, second, 1 if across else 2, fill)
    channels = max(first.shape[-1], second.shape[-1])
    first, second = (_opaque(picture, channels) for picture in (first, second))
    parts = [second, first] if direction in ("left", "up") else [first, second]
    if spacing_width > 0:
        parts.insert(1, _spacing(first, spacing_width + spacing_width % 2, across, spacing_color))
    return torch.cat(parts, dim=2 if across else 1)


def _held(image: Image, rows: int) -> Image:
    """Its last picture repeated up to `rows`."""
    return torch.cat((image, to_rows(image[-1:], rows - len(image)))) if len(image) < rows else image


def _matched(first: Image, second: Image, across: bool) -> Image:
    height, width = first.shape[1:3]
    aspect = second.shape[2] / second.shape[1]
    size = (int(height * aspect), height) if across else (width, int(width / aspect))
    return resize_image(second, *size, "lanczos")


def _levelled(first: Image, second: Image, axis: int, fill: float) -> tuple[Image, Image]:
    """Both padded to the longer of their sides along an axis."""
    length = max(first.shape[axis], second.shape[axis])
    return _filled(first, length, axis, fill), _filled(second, length, axis, fill)


def _filled(image: Image, length: int, axis: int, fill: float) -> Image:
    missing = length - image.shape[axis]
    sides = (missing // 2, missing - missing // 2)
    return torch.nn.functional.pad(image, (0, 0, 0, 0, *sides) if axis == 1 else (0, 0, *sides), value=fill)


def _opaque(image: Image, channels: int) -> Image:
    return torch.nn.functional.pad(image, (0, channels - image.shape[-1]), value=1.0)


def _spacing(image: Image, size: int, across: bool, colour: str) -> Image:
    rows, height, width, channels = image.shape
    pixel = torch.tensor([*COLOURS[colour], 1.0][:channels])
    return pixel.expand(rows, height if across else size, size if across else width, channels)
