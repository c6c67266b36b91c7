"""ComfyUI's `comfy.ldm.chroma.model`: classes for isinstance; the networks are in workers."""

from torch import nn


class Chroma(nn.Module): ...
