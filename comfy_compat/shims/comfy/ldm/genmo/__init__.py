"""ComfyUI's `comfy.ldm.genmo`."""
