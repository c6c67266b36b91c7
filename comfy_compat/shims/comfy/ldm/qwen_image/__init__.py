"""ComfyUI's `comfy.ldm.qwen_image`."""
