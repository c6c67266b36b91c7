"""ComfyUI's `comfy.ldm.hidream`."""
