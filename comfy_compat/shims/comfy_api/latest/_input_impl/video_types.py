"""Videos from files and from pictures. PyAV does the reading and writing."""

import io
import json
import math
from fractions import Fraction

import numpy as np
import torch

from comfy_api.latest._input import VideoInput
from comfy_api.latest._util import VideoCodec, VideoComponents, VideoContainer


class VideoFromFile(VideoInput):
    """A video in a file or a buffer; decoded when somebody asks for its parts."""

    def __init__(self, file):
        self._file = file

    def get_stream_source(self):
        if isinstance(self._file, io.BytesIO):
            self._file.seek(0)
        return self._file

    def _open(self):
        import av

        return av.open(self.get_stream_source(), mode="r")

    def get_dimensions(self):
        with self._open() as container:
            for stream in container.streams.video:
                return stream.width, stream.height
        raise ValueError(f"No video stream found in file '{self._file}'")

    def get_duration(self):
        with self._open() as container:
            if container.duration is not None:
                return float(container.duration / 1_000_000)
            for stream in container.streams.video:
                frames = stream.frames or sum(1 for _ in container.decode(stream))
                if frames and stream.average_rate:
                    return float(frames / stream.average_rate)
        raise ValueError(f"Could not determine duration for file '{self._file}'")

    def get_components(self):
        with self._open() as container:
            stream = container.streams.video[0]
            frames = [
                torch.from_numpy(f.to_ndarray(format="rgb24")) / 255.0 for f in container.decode(video=0)
            ]
            images = torch.stack(frames) if frames else torch.zeros(0, 3, 0, 0)
            rate = Fraction(stream.average_rate) if stream.average_rate else Fraction(1)
            return VideoComponents(images, rate, self._sound(container), dict(container.metadata))

    def _sound(self, container):
        if not container.streams.audio:
            return None
        container.seek(0)
        parts = [frame.to_ndarray() for frame in container.decode(audio=0)]
        if not parts:
            return None
        waveform = torch.from_numpy(np.concatenate(parts, axis=1)).unsqueeze(0)
        return {"waveform": waveform, "sample_rate": int(container.streams.audio[0].sample_rate or 1)}

    def save_to(self, path, format=VideoContainer.AUTO, codec=VideoCodec.AUTO, metadata=None):
        """Copy the streams where container and codec stay; write anew otherwise."""
        import av

        with self._open() as source:
            kinds = source.format.name.split(",")
            known = source.streams.video[0].codec.name if source.streams.video else None
            kept = format in (VideoContainer.AUTO, None) or str(_plain(format)) in kinds
            kept = kept and (codec in (VideoCodec.AUTO, None) or str(_plain(codec)) == known)
            if not kept:
                VideoFromComponents(self.get_components()).save_to(path, format, codec, metadata)
                return
            options = {"options": {"movflags": "use_metadata_tags"}}
            if isinstance(path, io.BytesIO):
                options["format"] = "mp4" if "mp4" in kinds else kinds[0]
            with av.open(path, mode="w", **options) as target:
                target.metadata.update({**source.metadata, **_texts(metadata)})
                streams = {s: target.add_stream_from_template(s, opaque=True) for s in source.streams}
                for packet in source.demux():
                    if packet.dts is not None:
                        packet.stream = streams[packet.stream]
                        target.mux(packet)


class VideoFromComponents(VideoInput):
    """A video from pictures [N, H, W, C], a frame rate and perhaps sound."""

    def __init__(self, components):
        self._components = components

    def get_components(self):
        parts = self._components
        return VideoComponents(images=parts.images, audio=parts.audio, frame_rate=parts.frame_rate)

    def save_to(self, path, format=VideoContainer.AUTO, codec=VideoCodec.AUTO, metadata=None):
        """As MP4 with H.264 and AAC. Raises: ValueError for others."""
        import av

        if _plain(format) not in (None, "auto", "mp4"):
            raise ValueError(f"Videos are written as MP4 only, not as {_plain(format)}")
        if _plain(codec) not in (None, "auto", "h264"):
            raise ValueError(f"Videos are written with H.264 only, not with {_plain(codec)}")
        parts = self._components
        rate = Fraction(round(parts.frame_rate * 1000), 1000)
        options = {"format": "mp4"} if isinstance(path, io.BytesIO) else {}
        with av.open(path, mode="w", options={"movflags": "use_metadata_tags"}, **options) as target:
            target.metadata.update(_texts(metadata))
            video = target.add_stream("h264", rate=rate)
            video.height, video.width = parts.images.shape[1:3]
            video.pix_fmt = "yuv420p"
            audio = None
            if parts.audio:
                audio = target.add_stream("aac", rate=int(parts.audio["sample_rate"]))
            for image in parts.images:
                pixels = (image * 255).clamp(0, 255).byte().cpu().numpy()
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
                target.mux(video.encode(frame))
            target.mux(video.encode(None))
            if audio is not None:
                target.mux(audio.encode(_sound_frame(parts, rate)))
                target.mux(audio.encode(None))


def _sound_frame(parts, rate):
    """The sound of the pictures' length, as one frame."""
    import av

    hertz = int(parts.audio["sample_rate"])
    samples = math.ceil(hertz / rate * parts.images.shape[0])
    wave = parts.audio["waveform"][:1, :, :samples]
    packed = wave.movedim(2, 1).reshape(1, -1).float().numpy()
    frame = av.AudioFrame.from_ndarray(
        packed, format="flt", layout="mono" if wave.shape[1] == 1 else "stereo"
    )
    frame.sample_rate = hertz
    frame.pts = 0
    return frame


def _texts(metadata):
    return {k: v if isinstance(v, str) else json.dumps(v) for k, v in (metadata or {}).items()}


def _plain(value):
    return getattr(value, "value", value)
