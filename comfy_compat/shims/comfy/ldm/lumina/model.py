"""ComfyUI's `comfy.ldm.lumina.model`: classes for isinstance; the networks are in workers."""

from torch import nn


class FeedForward(nn.Module): ...


class NextDiT(nn.Module): ...
