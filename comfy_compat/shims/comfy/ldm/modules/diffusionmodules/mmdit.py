"""ComfyUI's `comfy.ldm.modules.diffusionmodules.mmdit`: classes that packs name."""

import torch
from torch import nn


class RMSNorm(nn.RMSNorm): ...


class JointBlock(nn.Module): ...


class OpenAISignatureMMDITWrapper(nn.Module): ...


class MMDiT(nn.Module): ...


def modulate(x, shift, scale):
    return torch.addcmul(shift.unsqueeze(1), x, 1 + scale.unsqueeze(1))
