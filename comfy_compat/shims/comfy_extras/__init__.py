"""ComfyUI's `comfy_extras`: its further nodes as classes."""
