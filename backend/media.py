"""Picture and latent files <-> arrays, with the workflow that made them. No torch, no folders.

Pixels are uint8 arrays here; the float images of the wires are made of them by `nodes/`.
"""

import io
import os
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy
from isal import isal_zlib
from PIL import Image, ImageOps, ImageSequence

from backend.errors import BadFile
from backend.values import frozen

Pixels: TypeAlias = npt.NDArray[np.uint8]
Floats: TypeAlias = npt.NDArray[np.float32]
Channel = Literal["R", "G", "B", "A"]

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # channels -> PNG's colour type
_FILTER_UP = 2  # each row as the difference from the one above
# What Pillow raises for damaged files, by format and by where the damage is (found by flipping bytes).
_DAMAGED = (
    OSError,
    ValueError,
    SyntaxError,
    TypeError,
    LookupError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
_RAW_LATENT_UNITS = "latent_format_version_0"


@frozen
class Picture:
    """The frames of a file that have the size of its first, upright.

    rgb [N, H, W, 3]; alpha [N, H, W], or None where no frame has transparency.
    """

    rgb: Pixels
    alpha: Pixels | None


def read_picture(path: Path) -> Picture:
    """Read a picture: EXIF orientation applied, every frame, palettes and 16 bit reduced to 8-bit RGB.

    Raises: BadFile if it is missing, damaged, truncated, or no picture.
    """
    rgb: list[Pixels] = []
    alpha: list[Pixels | None] = []
    for frame in _frames(path):
        pixels = np.asarray(frame.convert("RGB"))
        if not rgb or pixels.shape == rgb[0].shape:
            rgb.append(pixels)
            alpha.append(_alpha(frame))
    if all(a is None for a in alpha):
        return Picture(np.stack(rgb), None)
    opaque = np.full(rgb[0].shape[:2], 255, np.uint8)
    return Picture(np.stack(rgb), np.stack([opaque if a is None else a for a in alpha]))


def read_channel(path: Path, channel: Channel) -> Pixels:
    """One channel of a picture's first frame, [H, W]; alpha is 255 where there is none. Raises: as above."""
    frame = next(iter(_frames(path, first_only=True)))
    if frame.getbands() != ("R", "G", "B", "A"):
        frame = frame.convert("RGBA")
    return np.asarray(frame.getchannel(channel))


def _frames(path: Path, *, first_only: bool = False) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as file:
            # An MPO's further frames are other views of the scene (stereo, depth), not a sequence.
            single = first_only or file.format == "MPO"
            for frame in ImageSequence.Iterator(file):
                upright = ImageOps.exif_transpose(frame)
                # 32-bit greys hold 16-bit values; ComfyUI brings them to 8 bit by this factor.
                yield upright.point(lambda v: v * (1 / 255)) if upright.mode == "I" else upright
                if single:
                    return
    except FileNotFoundError as error:
        raise BadFile(
            str(path), "Invalid image file: there is no such file", "Upload it, or pick another."
        ) from error
    except _DAMAGED as error:
        problem = f"Invalid image file: it is damaged, truncated, or no picture ({error})"
        raise BadFile(str(path), problem, "Replace it by an intact picture.") from error


def _alpha(frame: Image.Image) -> Pixels | None:
    if "A" in frame.getbands():
        return np.asarray(frame.getchannel("A"))
    if frame.mode == "P" and "transparency" in frame.info:
        return np.asarray(frame.convert("RGBA").getchannel("A"))
    return None


def to_pixels(image: Floats) -> Pixels:
    """0..1 -> 0..255, cut off rather than rounded, as ComfyUI saves; what is outside the range is clipped."""
    scaled = image * np.float32(255)
    return np.clip(scaled, 0, 255, out=scaled).astype(np.uint8)


def to_floats(pixels: Pixels) -> Floats:
    """0..255 -> 0..1."""
    return pixels.astype(np.float32) / np.float32(255)


def resize_lanczos(pixels: Pixels, width: int, height: int) -> Pixels:
    """[H, W, C] resized by Pillow's Lanczos filter."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    sized = np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))
    return sized.reshape(height, width, pixels.shape[-1])


def quantize(pixels: Pixels, colours: int, *, dither: bool = False, offsets: Floats | None = None) -> Pixels:
    """[H, W, 3] reduced to a palette of its own.

    dither: Floyd and Steinberg's; offsets: a square added to the values, tile by tile, before the nearest
    colour is chosen (ordered dithering), in units of the distance between colours.
    """
    image = Image.fromarray(pixels)
    palette = image.quantize(colors=colours)  # Pillow dithers only towards a given palette
    if offsets is not None:
        spread = 2 * 256 / (len(palette.getpalette() or ()) // 3)
        height, width = pixels.shape[:2]
        tiles = np.tile(offsets, (-(-height // offsets.shape[0]), -(-width // offsets.shape[1])))
        moved = pixels + (spread * tiles[:height, :width, None] + 0.5)
        image = Image.fromarray(np.clip(moved, 0, 255).astype(np.uint8))
    how = Image.Dither.FLOYDSTEINBERG if dither else Image.Dither.NONE
    return np.asarray(image.quantize(palette=palette, dither=how).convert("RGB"))


def write_file(folder: Path, name: str, content: bytes) -> None:
    """`Path.write_bytes` in half the system calls. Raises: OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
    file = os.open(os.path.join(folder, name), flags, 0o666)
    try:
        left = memoryview(content)
        while left:
            left = left[os.write(file, left) :]
    finally:
        os.close(file)


def encode_png(pixels: Pixels, text: Mapping[str, str] | None = None) -> bytes:
    """A PNG of [H, W] or [H, W, C] pixels, C of 1 to 4, with text chunks before the pixels.

    Every row is filtered by the row above and compressed by ISA-L: 2 to 20 times faster than Pillow's level 4
    at the size of its output, where Pillow tries all filters on every row.
    Raises: ValueError for another shape.
    """
    grid = pixels[..., None] if pixels.ndim == 2 else pixels
    if grid.ndim != 3 or grid.shape[2] not in _COLOUR_TYPES or 0 in grid.shape:
        raise ValueError(
            f"A PNG holds [height, width, 1 to 4 channels], none of them empty, not {pixels.shape}."
        )
    height, width, channels = grid.shape
    rows = np.ascontiguousarray(grid).reshape(height, width * channels)
    filtered = np.empty((height, 1 + width * channels), np.uint8)
    filtered[:, 0] = _FILTER_UP
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])  # modulo 256, as the format wants it
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0)
    chunks = [_chunk(b"IHDR", header)]
    chunks += [_text_chunk(key, value) for key, value in (text or {}).items()]
    chunks += [_chunk(b"IDAT", isal_zlib.compress(filtered, 1)), _chunk(b"IEND", b"")]
    return b"".join((_PNG_SIGNATURE, *chunks))


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))


def _text_chunk(key: str, value: str) -> bytes:
    """tEXt where Latin-1 is enough, else iTXt (uncompressed, no language)."""
    name = key.encode("latin-1", "replace")[:79].replace(b"\0", b"?") or b"?"
    try:
        return _chunk(b"tEXt", name + b"\0" + value.encode("latin-1"))
    except UnicodeEncodeError:
        return _chunk(b"iTXt", name + b"\0\0\0\0\0" + value.encode("utf-8", "surrogatepass"))


def read_text(path: Path) -> dict[str, str]:
    """The text chunks of a PNG (`prompt`, `workflow` ...), {} for other formats. Raises: BadFile."""
    try:
        with Image.open(path) as file:
            file.load()  # chunks may come after the pixels
            return {key: str(value) for key, value in getattr(file, "text", {}).items()}
    except _DAMAGED as error:
        problem = f"Invalid image file: its texts can't be read ({error})"
        raise BadFile(str(path), problem, "Replace it by an intact picture.") from error


def encode_lossy(pixels: Pixels, format: Literal["JPEG", "WEBP"], quality: int = 90) -> bytes:
    """A JPEG or WebP of [H, W, 3] pixels (WebP: 4 channels too). quality: 1 to 100."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format, quality=quality)
    return out.getvalue()


@frozen
class Animation:
    """How an animated file plays and is packed. effort: WebP's method or PNG's level, larger is smaller."""

    fps: float
    lossless: bool = True
    quality: int = 80
    effort: int = 4


def encode_webp(frames: Sequence[Pixels], how: Animation, text: Mapping[str, str] | None = None) -> bytes:
    """An animated WebP; texts go into EXIF as `key:value`, where the front end looks for them."""
    out = io.BytesIO()
    images = [Image.fromarray(f) for f in frames]
    exif = images[0].getexif()
    # 0x010F and down (Make, Model's tags): the place that clients read `prompt` and `workflow` from.
    tags = {"prompt": 0x0110}
    free = 0x010F
    for key, value in (text or {}).items():
        tag = tags.get(key, free)
        free -= key not in tags
        exif[tag] = f"{key}:{value}"
    options = {"lossless": how.lossless, "quality": how.quality, "method": how.effort, "exif": exif}
    images[0].save(
        out, "WEBP", save_all=True, duration=int(1000.0 / how.fps), append_images=images[1:], **options
    )
    return out.getvalue()


def encode_apng(frames: Sequence[Pixels], how: Animation, text: Mapping[str, str] | None = None) -> bytes:
    """An animated PNG; texts as chunks `comf` of `key NUL value`, behind the header."""
    from PIL.PngImagePlugin import PngInfo

    out = io.BytesIO()
    images = [Image.fromarray(f) for f in frames]
    info = PngInfo()
    for key, value in (text or {}).items():
        body = key.encode("latin-1", "strict") + b"\0" + value.encode("latin-1", "strict")
        info.add(b"comf", body, after_idat=True)
    images[0].save(
        out,
        "PNG",
        pnginfo=info,
        compress_level=how.effort,
        save_all=True,
        duration=int(1000.0 / how.fps),
        append_images=images[1:],
    )
    return out.getvalue()


# -- latents ---------------------------------------------------------------------------------------


def encode_latent(samples: Floats, text: Mapping[str, str] | None = None) -> bytes:
    """A `.latent` file: safetensors with `latent_tensor`, and a mark that it is in the family's units."""
    tensors = {"latent_tensor": np.ascontiguousarray(samples), _RAW_LATENT_UNITS: np.empty(0, np.float32)}
    return bytes(safetensors.numpy.save(tensors, dict(text) if text is not None else None))


def read_latent(path: Path) -> Floats:
    """The samples of a `.latent` file, float32. Files without the mark hold SD's scaled units.

    Raises: BadFile if it is missing, damaged or no latent.
    """
    try:
        tensors = safetensors.numpy.load_file(path)
        samples: Floats = tensors["latent_tensor"].astype(np.float32)
    except FileNotFoundError as error:
        raise BadFile(
            str(path), "Invalid latent file: there is no such file", "Put it into the input folder."
        ) from error
    except (OSError, KeyError, TypeError, safetensors.SafetensorError) as error:
        problem = f"Invalid latent file: {error}"
        raise BadFile(str(path), problem, "Use a file that SaveLatent has written.") from error
    return samples if _RAW_LATENT_UNITS in tensors else samples * np.float32(1.0 / 0.18215)
