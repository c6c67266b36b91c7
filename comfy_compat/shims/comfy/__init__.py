"""ComfyUI's `comfy` package, as packs import it; each module answers through the server."""
