"""ComfyUI's `comfyui_version`: the version whose behaviour the server has."""

__version__ = "0.3.64"
