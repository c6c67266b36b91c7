"""ComfyUI's `comfy.ldm.hidream.model`: classes for isinstance; the networks are in workers."""

from torch import nn


class HiDreamImageTransformer2DModel(nn.Module): ...
