"""ComfyUI's `comfy_api`, as packs import it."""
