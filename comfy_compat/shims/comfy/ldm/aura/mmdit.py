"""ComfyUI's `comfy.ldm.aura.mmdit`: classes for isinstance; the networks are in workers."""

from torch import nn


class MMDiT(nn.Module): ...
