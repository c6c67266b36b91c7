"""ComfyUI's `comfy.ldm.wan`."""
