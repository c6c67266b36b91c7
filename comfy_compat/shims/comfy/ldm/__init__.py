"""ComfyUI's `comfy.ldm`: functions of its networks that packs call. The networks are in the workers."""
