"""ComfyUI's `comfy.ldm.flux.model`: classes for isinstance; the networks are in workers."""

from torch import nn


class Flux(nn.Module): ...
