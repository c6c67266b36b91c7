"""ComfyUI's `comfy_api.input.basic_types`."""

from comfy_api.latest._input.basic_types import AudioInput, ImageInput, LatentInput, MaskInput

__all__ = ["AudioInput", "ImageInput", "LatentInput", "MaskInput"]
