"""ComfyUI's `comfy.latent_formats`."""

from comfy_compat.latent_formats import *
