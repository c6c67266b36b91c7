"""ComfyUI's `comfy_execution`: what nodes build graphs with."""
