"""ComfyUI's `comfy.ldm.lumina`."""
