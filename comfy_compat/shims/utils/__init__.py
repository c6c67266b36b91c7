"""ComfyUI's top-level `utils`."""
