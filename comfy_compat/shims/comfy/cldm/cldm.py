"""ComfyUI's `comfy.cldm.cldm`: a class to ask for with isinstance."""

from torch import nn


class ControlNet(nn.Module): ...
