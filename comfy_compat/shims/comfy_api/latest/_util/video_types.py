"""Words for videos."""

from dataclasses import dataclass
from enum import Enum
from fractions import Fraction

import torch


class VideoCodec(str, Enum):
    AUTO = "auto"
    H264 = "h264"

    @classmethod
    def as_input(cls):
        """The names, as choices."""
        return [member.value for member in cls]


class VideoContainer(str, Enum):
    AUTO = "auto"
    MP4 = "mp4"

    @classmethod
    def as_input(cls):
        """The names, as choices."""
        return [member.value for member in cls]

    @classmethod
    def get_extension(cls, value):
        """The ending of a file of that container."""
        return "mp4" if cls(value) in (cls.MP4, cls.AUTO) else ""


@dataclass
class VideoComponents:
    """images [N, H, W, C]; frame_rate in pictures a second; audio: a dict of waveform and sample_rate."""

    images: torch.Tensor
    frame_rate: Fraction
    audio: dict | None = None
    metadata: dict | None = None
