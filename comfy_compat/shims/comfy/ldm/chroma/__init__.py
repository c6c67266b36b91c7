"""ComfyUI's `comfy.ldm.chroma`."""
