"""ComfyUI's `comfy.ldm.lightricks.vae`."""
