"""Pictures as the edge sends them: re-encoded, single channels, and a mask joined to its original."""

import io
from collections.abc import Callable
from pathlib import Path

from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile, PngInfo

from backend.errors import BadFile

_QUALITY = 90
_UNREADABLE = (
    *(UnidentifiedImageError, OSError, SyntaxError, ValueError),
    *(Image.DecompressionBombError, Image.DecompressionBombWarning),  # a warning, where those are errors
)
MOST_PIXELS = 1 << 27  # of a picture that is re-encoded: half a gigabyte of RGBA


def open_picture(source: Path | io.BytesIO, name: str) -> Image.Image:
    """Raises: BadFile where it is no picture."""
    try:
        picture = Image.open(source)
        if picture.width * picture.height > MOST_PIXELS:  # before its pixels take up memory
            raise ValueError(f"{picture.width} x {picture.height} pixels are more than {MOST_PIXELS}")
        picture.load()
    except _UNREADABLE as error:
        raise BadFile(
            name, f"is no picture that can be read ({error})", "Ask for the file itself."
        ) from error
    return picture


def preview(path: Path, wanted: str, channel: str) -> tuple[bytes, str]:
    """A picture re-encoded. wanted: `webp` or `jpeg`, perhaps with `;quality`; any other format becomes webp.

    channel: where it asks for alpha, only webp can show it. Returns: the bytes and their MIME type.
    Raises: BadFile.
    """
    format, _, quality = wanted.partition(";")
    if format not in ("webp", "jpeg") or "a" in channel:
        format = "webp"
    picture = open_picture(path, path.name)
    if format == "jpeg" or (channel and "a" not in channel):
        picture = picture.convert("RGB")
    number = int(quality) if quality.isdecimal() else _QUALITY
    return encoded(picture, format, quality=min(number, 100)), f"image/{format}"


def colours(path: Path) -> bytes:
    """A PNG of the picture without its alpha. Raises: BadFile."""
    picture = open_picture(path, path.name)
    if picture.mode == "RGBA":
        red, green, blue, _ = picture.split()
        return encoded(Image.merge("RGB", (red, green, blue)), "png")
    return encoded(picture.convert("RGB"), "png")


def alpha(path: Path) -> bytes:
    """A black PNG with the picture's alpha, opaque where it has none. Raises: BadFile."""
    picture = open_picture(path, path.name)
    black = Image.new("RGBA", picture.size)
    black.putalpha(_alpha_of(picture))
    return encoded(black, "png")


def masked(original: Path, mask: bytes) -> bytes:
    """A PNG of the original with the mask's alpha, and the original's text chunks.

    Raises: BadFile, also where their sizes differ.
    """
    below = open_picture(original, original.name)
    above = open_picture(io.BytesIO(mask), "the uploaded mask")
    if below.size != above.size:
        problem = f"is {below.size[0]}x{below.size[1]} and the mask is {above.size[0]}x{above.size[1]}"
        raise BadFile(original.name, problem, "Upload a mask of the picture's size.")
    texts = PngInfo()
    for name, text in (below.text if isinstance(below, PngImageFile) else {}).items():
        texts.add_text(name, str(text))
    joined = below.convert("RGBA")
    joined.putalpha(_alpha_of(above))
    return encoded(joined, "png", pnginfo=texts, compress_level=4)


def webp(path: Path) -> bytes:
    """A picture as WebP, for model cards. Raises: BadFile."""
    return encoded(open_picture(path, path.name), "webp")


def encoded(picture: Image.Image, format: str, **options: object) -> bytes:
    """The picture in a format, in memory."""
    target = io.BytesIO()
    save: Callable[..., None] = picture.save
    save(target, format=format.upper(), **options)
    return target.getvalue()


def _alpha_of(picture: Image.Image) -> Image.Image:
    if picture.has_transparency_data:
        return picture.convert("RGBA").getchannel("A")
    return Image.new("L", picture.size, 255)
