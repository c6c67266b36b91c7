"""ComfyUI's `comfy.ldm.lightricks.vae.causal_conv3d`: a class for isinstance."""

from torch import nn


class CausalConv3d(nn.Module): ...
