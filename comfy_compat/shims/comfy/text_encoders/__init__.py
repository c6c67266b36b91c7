"""ComfyUI's `comfy.text_encoders`."""
