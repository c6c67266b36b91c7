"""ComfyUI's `comfy.taesd.taesd`: a class to ask for with isinstance."""

from torch import nn


class TAESD(nn.Module): ...
