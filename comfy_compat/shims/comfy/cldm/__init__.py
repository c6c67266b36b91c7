"""ComfyUI's `comfy.cldm`."""
