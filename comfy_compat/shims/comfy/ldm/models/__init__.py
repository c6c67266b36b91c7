"""ComfyUI's `comfy.ldm.models`."""
