"""ComfyUI's `comfy.ldm.cosmos.predict2`: classes for isinstance; the networks are in workers."""

from torch import nn


class Attention(nn.Module): ...


class MiniTrainDIT(nn.Module): ...
