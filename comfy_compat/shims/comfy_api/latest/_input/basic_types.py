"""Images, masks, sound and latents, as they travel between nodes."""

from typing import TypedDict

import torch

ImageInput = torch.Tensor  # [B, H, W, C], 0..1
MaskInput = torch.Tensor  # [B, H, W], 0..1


class AudioInput(TypedDict):
    """waveform: [B, C, T]."""

    waveform: torch.Tensor
    sample_rate: int


class LatentInput(TypedDict, total=False):
    """samples: [B, C, H, W]."""

    samples: torch.Tensor
    noise_mask: torch.Tensor
    batch_index: list[int]
