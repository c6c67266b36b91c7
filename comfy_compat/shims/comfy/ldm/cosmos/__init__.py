"""ComfyUI's `comfy.ldm.cosmos`."""
