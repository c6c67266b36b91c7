"""ComfyUI's `comfy.taesd`."""
