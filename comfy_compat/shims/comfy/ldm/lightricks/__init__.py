"""ComfyUI's `comfy.ldm.lightricks`."""
