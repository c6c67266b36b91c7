"""ComfyUI's `comfy.ldm.aura`."""
