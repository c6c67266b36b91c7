"""ComfyUI's `comfy_api.latest`: V3 schema (`io`), what clients show (`ui`), what a node may ask for."""

from abc import ABC, abstractmethod

from comfy.cli_args import args

from comfy_api.latest import _io as io
from comfy_api.latest import _ui as ui
from comfy_api.latest._input import AudioInput, ImageInput, LatentInput, MaskInput, VideoInput
from comfy_api.latest._input_impl import VideoFromComponents, VideoFromFile
from comfy_api.latest._util import VideoCodec, VideoComponents, VideoContainer
from comfy_compat.progress import report_progress


def _tell(value, max_value, node_id, preview_image, ignore_size_limit):
    size = None if ignore_size_limit else args.preview_size
    report_progress(value, max_value, node_id, preview_image, size)


class Execution:
    """What a running node may say of itself."""

    async def set_progress(self, value, max_value, node_id=None, preview_image=None, ignore_size_limit=False):
        """How far the node is; `preview_image` is a PIL image or an IMAGE tensor."""
        _tell(value, max_value, node_id, preview_image, ignore_size_limit)


class ExecutionSync:
    """`Execution` for code that can't await."""

    def set_progress(self, value, max_value, node_id=None, preview_image=None, ignore_size_limit=False):
        """As `Execution.set_progress`."""
        _tell(value, max_value, node_id, preview_image, ignore_size_limit)


class ComfyAPI_latest:
    """The API of nodes, to be awaited."""

    VERSION = "latest"
    STABLE = False
    Execution = Execution

    def __init__(self):
        self.execution = Execution()


class ComfyAPISync_latest:
    """The API of nodes, for code that can't await."""

    VERSION = "latest"
    STABLE = False
    Execution = ExecutionSync

    def __init__(self):
        self.execution = ExecutionSync()


class ComfyExtension(ABC):
    """What `comfy_entrypoint` of a pack returns."""

    async def on_load(self):
        """Called before the nodes are asked for."""

    @abstractmethod
    async def get_node_list(self):
        """The classes of the pack's nodes."""


class Input:
    Image = ImageInput
    Audio = AudioInput
    Mask = MaskInput
    Latent = LatentInput
    Video = VideoInput


class InputImpl:
    VideoFromFile = VideoFromFile
    VideoFromComponents = VideoFromComponents


class Types:
    VideoCodec = VideoCodec
    VideoContainer = VideoContainer
    VideoComponents = VideoComponents


ComfyAPI = ComfyAPI_latest
ComfyAPISync = ComfyAPISync_latest
IO, UI = io, ui
__all__ = [
    "IO",
    "UI",
    "ComfyAPI",
    "ComfyAPISync",
    "ComfyExtension",
    "Input",
    "InputImpl",
    "Types",
    "io",
    "ui",
]
