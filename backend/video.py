"""Video files <-> frames, by PyAV, an optional extra. No torch, no folders."""

import importlib
import importlib.util
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np

from backend.errors import BadFile
from backend.media import Floats, Pixels
from backend.values import frozen

_EXTRA = "Install the extra for video: pip install 'tessera-serve[video]'."
_KEEP_TAGS = {"movflags": "use_metadata_tags"}  # or an MP4 loses what is not of its own list of tags
_WEBM = {"vp9": ("libvpx-vp9", "yuv420p"), "av1": ("libsvtav1", "yuv420p10le")}
WebmCodec = Literal["vp9", "av1"]


@frozen
class Sound:
    """samples [channels, N], -1..1."""

    samples: Floats
    rate: int


@frozen
class Film:
    """A file's frames [H, W, 3], their number a second, its first sound, and its tags."""

    frames: list[Pixels]
    rate: Fraction
    sound: Sound | None
    tags: Mapping[str, str]


@frozen
class Facts:
    """formats: the names of the container; codec: of the pictures; seconds: its length."""

    formats: tuple[str, ...]
    codec: str
    width: int
    height: int
    seconds: float


def _av() -> Any:
    """Raises: BadFile where PyAV is not installed."""
    if importlib.util.find_spec("av") is None:
        raise BadFile("video", "needs the library PyAV, which is not installed", _EXTRA)
    return importlib.import_module("av")


def _opened(path: Path) -> Any:
    """Raises: BadFile where the file is missing, damaged, or has no pictures."""
    av = _av()
    try:
        container = av.open(str(path))
    except (av.FFmpegError, OSError) as error:
        raise BadFile(
            str(path), f"can't be read as a video ({error})", "Use an intact video file."
        ) from error
    if not container.streams.video:
        container.close()
        raise BadFile(str(path), "has no pictures", "Use a video file.")
    return container


def read_film(path: Path) -> Film:
    """All of a video. Raises: BadFile."""
    with _opened(path) as container:
        rate = container.streams.video[0].average_rate
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        container.seek(0)
        return Film(
            frames, Fraction(rate) if rate else Fraction(1), _sound(container), dict(container.metadata)
        )


def _sound(container: Any) -> Sound | None:
    if not container.streams.audio:
        return None
    stream = container.streams.audio[0]
    parts = [frame.to_ndarray() for packet in container.demux(stream) for frame in packet.decode()]
    return Sound(np.concatenate(parts, axis=1), int(stream.sample_rate or 1)) if parts else None


def read_facts(path: Path) -> Facts:
    """What a video is, from its header. Raises: BadFile."""
    with _opened(path) as container:
        stream = container.streams.video[0]
        seconds = 0.0
        if container.duration is not None:
            seconds = float(container.duration / _av().time_base)
        elif stream.frames and stream.average_rate:
            seconds = float(stream.frames / stream.average_rate)
        formats = tuple(container.format.name.split(","))
        return Facts(formats, stream.codec.name, stream.width, stream.height, seconds)


def write_mp4(
    path: Path,
    frames: Iterable[Pixels],
    size: tuple[int, int],
    rate: Fraction,
    sound: Sound | None,
    tags: Mapping[str, object],
) -> None:
    """An MP4 with H.264 (and AAC). size: (width, height), even numbers. Values of tags are written as JSON.

    Raises: ValueError for an odd size.
    """
    if size[0] % 2 or size[1] % 2:
        raise ValueError(
            f"H.264 takes pictures of even width and height, not {size[0]} x {size[1]}: resize them."
        )
    av = _av()
    with _whole(path) as name, av.open(name, mode="w", format="mp4", options=_KEEP_TAGS) as output:
        for key, value in tags.items():
            output.metadata[key] = json.dumps(value)
        steady = Fraction(round(rate * 1000), 1000)
        pictures = _stream(output, "h264", steady, size, "yuv420p")
        speech = None if sound is None else output.add_stream("aac", rate=sound.rate)
        count = _encode(output, pictures, frames)
        if sound is not None:
            _encode_sound(output, speech, sound, math.ceil(sound.rate / steady * count))


def write_webm(
    path: Path,
    frames: Iterable[Pixels],
    size: tuple[int, int],
    fps: float,
    codec: WebmCodec,
    crf: float,
    tags: Mapping[str, str],
) -> None:
    """A WebM. crf: 0 (best) to 63."""
    name, pixels = _WEBM[codec]
    with _whole(path) as file, _av().open(file, mode="w", format="webm") as output:
        for key, value in tags.items():
            output.metadata[key] = value
        stream = _stream(output, name, Fraction(round(fps * 1000), 1000), size, pixels)
        stream.bit_rate = 0
        stream.options = {"crf": str(crf), **({"preset": "6"} if codec == "av1" else {})}
        _encode(output, stream, frames)


def copy_streams(source: Path, target: Path, tags: Mapping[str, object]) -> None:
    """The same pictures and sounds in a new file, with tags beside those there are. Raises: BadFile."""
    av = _av()
    kinds = (av.VideoStream, av.AudioStream, av.subtitles.stream.SubtitleStream)
    with (
        _opened(source) as container,
        _whole(target) as name,
        av.open(name, mode="w", options=_KEEP_TAGS) as output,
    ):
        for key, value in {**container.metadata, **tags}.items():
            output.metadata[key] = value if isinstance(value, str) else json.dumps(value)
        made = {
            stream: output.add_stream_from_template(template=stream, opaque=True)
            for stream in container.streams
            if isinstance(stream, kinds)
        }
        for packet in container.demux():
            if packet.stream in made and packet.dts is not None:
                packet.stream = made[packet.stream]
                output.mux(packet)


@contextmanager
def _whole(path: Path) -> Iterator[str]:
    """A file to be written, removed again where that fails."""
    try:
        yield str(path)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _stream(output: Any, codec: str, rate: Fraction, size: tuple[int, int], pixels: str) -> Any:
    stream = output.add_stream(codec, rate=rate)
    stream.width, stream.height = size
    stream.pix_fmt = pixels
    return stream


def _encode(output: Any, stream: Any, frames: Iterable[Pixels]) -> int:
    """Returns: the number of frames."""
    count = 0
    for pixels in frames:
        frame = _av().VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        output.mux(stream.encode(frame))
        count += 1
    output.mux(stream.encode(None))
    return count


def _encode_sound(output: Any, stream: Any, sound: Sound, length: int) -> None:
    """The sound as long as the pictures are."""
    samples = sound.samples[:, :length]
    layout = "mono" if len(samples) == 1 else "stereo"
    interleaved = np.ascontiguousarray(samples.T.reshape(1, -1), np.float32)
    frame = _av().AudioFrame.from_ndarray(interleaved, format="flt", layout=layout)
    frame.sample_rate, frame.pts = sound.rate, 0
    output.mux(stream.encode(frame))
    output.mux(stream.encode(None))
