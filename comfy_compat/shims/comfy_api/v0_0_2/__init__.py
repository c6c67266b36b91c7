"""ComfyUI's `comfy_api.v0_0_2`: `latest` as it was then."""

from comfy_api.latest import (
    ComfyAPI_latest,
    ComfyAPISync_latest,
    ComfyExtension,
    Input,
    InputImpl,
    Types,
    io,
    ui,
)


class ComfyAPIAdapter_v0_0_2(ComfyAPI_latest):
    VERSION = "0.0.2"
    STABLE = True


class ComfyAPISyncAdapter_v0_0_2(ComfyAPISync_latest):
    VERSION = "0.0.2"
    STABLE = True


ComfyAPI = ComfyAPIAdapter_v0_0_2
ComfyAPISync = ComfyAPISyncAdapter_v0_0_2
__all__ = ["ComfyAPI", "ComfyAPISync", "ComfyExtension", "Input", "InputImpl", "Types", "io", "ui"]
