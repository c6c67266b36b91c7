"""ComfyUI's `comfy.ldm.lightricks.vae.pixel_norm`."""

import torch
from torch import nn


class PixelNorm(nn.Module):
    """Every place brought to length 1 over the channels."""

    def __init__(self, dim=1, eps=1e-8):
        super().__init__()
        self.dim, self.eps = dim, eps

    def forward(self, x):
        return x / torch.sqrt(torch.mean(x**2, dim=self.dim, keepdim=True) + self.eps)
