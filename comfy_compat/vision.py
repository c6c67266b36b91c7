"""CLIP_VISION values as packs make them by file."""

from typing import Any

from backend.errors import UnsupportedOption


class ClipVisionModel:
    """A vision encoder's handle: `value` is what the server's own loader gives."""

    def __init__(self, json_config: Any = None, value: Any = None) -> None:
        self.value = value

    @classmethod
    def load(cls, path: str) -> "ClipVisionModel":
        remedy = "Load it with the server's CLIPVisionLoader and encode with CLIPVisionEncode."
        raise UnsupportedOption("comfy.clip_vision.load", path, remedy)

    def encode_image(self, image: Any, crop: bool = True) -> Any:
        remedy = "Encode with the node CLIPVisionEncode."
        raise UnsupportedOption("clip_vision.encode_image", "", remedy)
