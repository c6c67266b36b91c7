"""ComfyUI's `comfy_extras`, as packs import it."""
