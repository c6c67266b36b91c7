"""ComfyUI's `comfy.ldm.hunyuan_video`."""
