"""Videos: made of pictures, taken apart, read and written."""

from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Protocol, TypeAlias

from backend.deferred import torch
from backend.media import Pixels, to_floats, to_pixels
from backend.node import Choice, Float, Result, String, node
from backend.settings import Settings
from backend.storage import Storage
from backend.types import Image, Wire
from backend.values import frozen
from backend.video import (
    Sound,
    WebmCodec,
    copy_streams,
    read_facts,
    read_film,
    write_mp4,
    write_webm,
)
from nodes.image_files import ExtraInfo, Prompt, embedded_text
from nodes.text import one_of

CATEGORY = "image/video"
MODULE = "comfy_extras.nodes_video"
Tags: TypeAlias = Mapping[str, object] | None
Audio = Annotated[object, Wire("AUDIO")]  # {"waveform": float32 [B, channels, N], "sample_rate": int}


@frozen
class Components:
    """A video taken apart, as ComfyUI's nodes know it. images [N, H, W, 3]."""

    images: Image
    frame_rate: Fraction
    audio: object = None
    metadata: Mapping[str, str] | None = None


class VideoLike(Protocol):
    """What ComfyUI's VIDEO values can do, ours and those of node packs."""

    def get_components(self) -> Components: ...

    def get_dimensions(self) -> tuple[int, int]: ...

    def save_to(
        self,
        path: str,
        format: str = "auto",
        codec: str = "auto",
        metadata: Mapping[str, object] | None = None,
    ) -> None: ...


Video = Annotated[VideoLike, Wire("VIDEO")]


@frozen
class PictureVideo:
    """A video made of pictures."""

    wire: ClassVar[str] = "VIDEO"
    components: Components

    def get_components(self) -> Components:
        return self.components

    def get_dimensions(self) -> tuple[int, int]:
        """Width and height."""
        height, width = self.components.images.shape[1:3]
        return width, height

    def get_duration(self) -> float:
        """Seconds."""
        return float(len(self.components.images) / self.components.frame_rate)

    def save_to(
        self,
        path: str,
        format: str = "auto",
        codec: str = "auto",
        metadata: Mapping[str, object] | None = None,
    ) -> None:
        """Write an MP4 with H.264. Raises: ValueError for another format or codec."""
        if format not in ("auto", "mp4") or codec not in ("auto", "h264"):
            raise ValueError(f"Videos are written as MP4 with H.264, not as {format} with {codec}.")
        parts = self.components
        sound = sound_of(parts.audio)
        size = self.get_dimensions()
        write_mp4(Path(path), pixels_of(parts.images), size, parts.frame_rate, sound, metadata or {})


@frozen
class FileVideo:
    """A video in a file: read when it is taken apart."""

    wire: ClassVar[str] = "VIDEO"
    path: str

    def get_stream_source(self) -> str:
        return self.path

    def get_components(self) -> Components:
        """Raises: BadFile."""
        film = read_film(Path(self.path))
        frames = [torch.from_numpy(to_floats(frame)) for frame in film.frames]
        images = torch.stack(frames) if frames else torch.zeros(0, 3, 0, 0)
        audio = None
        if film.sound is not None:
            waveform = torch.from_numpy(film.sound.samples).unsqueeze(0)
            audio = {"waveform": waveform, "sample_rate": film.sound.rate}
        return Components(images, film.rate, audio, film.tags)

    def get_dimensions(self) -> tuple[int, int]:
        """Width and height. Raises: BadFile."""
        facts = read_facts(Path(self.path))
        return facts.width, facts.height

    def get_duration(self) -> float:
        """Seconds. Raises: BadFile."""
        return read_facts(Path(self.path)).seconds

    def save_to(
        self,
        path: str,
        format: str = "auto",
        codec: str = "auto",
        metadata: Mapping[str, object] | None = None,
    ) -> None:
        """Write it again, its streams as they are where format and codec allow it."""
        facts = read_facts(Path(self.path))
        if format in ("auto", *facts.formats) and codec in ("auto", facts.codec):
            copy_streams(Path(self.path), Path(path), metadata or {})
        else:
            PictureVideo(self.get_components()).save_to(path, format, codec, metadata)


def pixels_of(images: Image) -> Iterator[Pixels]:
    return (to_pixels(image.numpy()) for image in images[..., :3])


def sound_of(audio: object) -> Sound | None:
    """The first of a batch of sounds."""
    if not isinstance(audio, Mapping):
        return None
    return Sound(audio["waveform"][0].float().numpy(), int(audio["sample_rate"]))


@node("CreateVideo", category=CATEGORY, display_name="Create Video", module=MODULE)
def create_video(
    *,
    images: Image,
    fps: Annotated[float, Float(1.0, 120.0, step=1.0)] = 30.0,
    audio: Audio | None = None,
) -> Video:
    """A video of pictures, with a sound or without."""
    return PictureVideo(Components(images, Fraction(fps), audio))


@node(
    "GetVideoComponents",
    category=CATEGORY,
    display_name="Get Video Components",
    module=MODULE,
    outputs=("images", "audio", "fps"),
)
def get_video_components(*, video: Video) -> tuple[Image, Audio, float]:
    """The pictures of a video, its sound, and the pictures a second."""
    parts = video.get_components()
    return parts.images, parts.audio, float(parts.frame_rate)


def video_fingerprint(*, file: object, storage: Storage, **_: object) -> object:
    """When the file was changed: hashing a film would take as long as reading it."""
    return storage.annotated(file).stat().st_mtime_ns if isinstance(file, str) else object()


def video_exists(*, file: object, storage: Storage, **_: object) -> bool | str:
    """Whether the video is there; a linked name is looked at when it is known."""
    if file is None or (isinstance(file, str) and storage.has(file)):
        return True
    return f"Invalid video file: {file}"


@node(
    "LoadVideo",
    category=CATEGORY,
    display_name="Load Video",
    module=MODULE,
    fingerprint=video_fingerprint,
    validate=video_exists,
    validates=("file",),
)
def load_video(
    *,
    file: Annotated[
        str,
        Choice(lambda s: s.input_files("video"), style="COMBO", multiselect=False, video_upload=True),
    ],
    storage: Storage,
) -> Video:
    """A video of the input folder."""
    return FileVideo(str(storage.annotated(file)))


@node("SaveVideo", category=CATEGORY, display_name="Save Video", module=MODULE, output_node=True)
def save_video(
    *,
    video: Video,
    filename_prefix: Annotated[str, String(multiline=False)] = "video/ComfyUI",
    format: Annotated[Literal["auto", "mp4"], one_of("auto", "mp4")] = "auto",
    codec: Annotated[Literal["auto", "h264"], one_of("auto", "h264")] = "auto",
    prompt: Prompt = None,
    extra_pnginfo: ExtraInfo = None,
    storage: Storage,
    settings: Settings,
) -> Result:
    """Write an MP4 into the output folder, with the workflow that made it."""
    told: dict[str, object] = {}
    if not settings.disable_metadata:
        told = dict(extra_pnginfo) if isinstance(extra_pnginfo, Mapping) else {}
        told |= {} if prompt is None else {"prompt": prompt}
    with storage.reserve("output", filename_prefix, 1, *video.get_dimensions()) as slots:
        name = slots.file(0, ".mp4")
        video.save_to(str(slots.folder / name), format=format, codec=codec, metadata=told or None)
    return shown(name, slots.subfolder)


@node("SaveWEBM", category=CATEGORY, module=MODULE, output_node=True, experimental=True)
def save_webm(
    *,
    images: Image,
    filename_prefix: Annotated[str, String(multiline=False)] = "ComfyUI",
    codec: Annotated[WebmCodec, one_of("vp9", "av1")],
    fps: Annotated[float, Float(0.01, 1000.0, step=0.01)] = 24.0,
    crf: Annotated[float, Float(0, 63.0, step=1)] = 32.0,
    prompt: Prompt = None,
    extra_pnginfo: ExtraInfo = None,
    storage: Storage,
    settings: Settings,
) -> Result:
    """Write a WebM into the output folder. crf: higher is smaller and worse."""
    height, width = images.shape[1:3]
    text = embedded_text(settings, prompt, extra_pnginfo)
    with storage.reserve("output", filename_prefix, 1, width, height) as slots:
        name = slots.file(0, ".webm")
        write_webm(slots.folder / name, pixels_of(images), (width, height), fps, codec, crf, text)
    return shown(name, slots.subfolder)


def shown(name: str, subfolder: str) -> Result:
    """The ui entry that names a video."""
    item = {"filename": name, "subfolder": subfolder, "type": "output"}
    return Result(ui={"images": [item], "animated": (True,)})
