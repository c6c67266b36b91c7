"""ComfyUI's `comfy.cli_args`: the options the server was started with, by ComfyUI's names."""

from comfy_compat.options import LatentPreviewMethod, PerformanceFeature, namespace

args = namespace(bridge.settings)
__all__ = ["LatentPreviewMethod", "PerformanceFeature", "args"]
