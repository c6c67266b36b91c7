"""ComfyUI's `comfy.ldm.lightricks.symmetric_patchifier`: latents of videos as rows of patches."""

import torch
from torch import nn


def latent_to_pixel_coords(latent_coords, scale_factors, causal_fix=False):
    """Places [B, 3, N] in a latent -> in the video; the first frame stands alone where `causal_fix`."""
    scale = torch.tensor(scale_factors, device=latent_coords.device)[None, :, None]
    pixels = latent_coords * scale
    if causal_fix:
        pixels[:, 0] = (pixels[:, 0] + 1 - scale_factors[0]).clamp(min=0)
    return pixels


class SymmetricPatchifier(nn.Module):
    """Patches of equal sides."""

    def __init__(self, patch_size):
        super().__init__()
        self._patch_size = (1, patch_size, patch_size)

    @property
    def patch_size(self):
        return self._patch_size

    def patchify(self, latents):
        b, _, t, h, w = latents.shape
        p1, p2, p3 = self._patch_size
        coords = torch.stack(
            torch.meshgrid(
                torch.arange(0, t, p1, device=latents.device),
                torch.arange(0, h, p2, device=latents.device),
                torch.arange(0, w, p3, device=latents.device),
                indexing="ij",
            )
        )
        coords = coords.reshape(3, -1)[None].expand(b, -1, -1)
        split = latents.unfold(2, p1, p1).unfold(3, p2, p2).unfold(4, p3, p3)
        rows = split.permute(0, 2, 3, 4, 1, 5, 6, 7).reshape(b, (t // p1) * (h // p2) * (w // p3), -1)
        return rows, coords

    def unpatchify(self, latents, output_height, output_width, output_num_frames, out_channels):
        _, p2, p3 = self._patch_size
        h, w = output_height // p2, output_width // p3
        split = latents.reshape(len(latents), output_num_frames, h, w, out_channels, p2, p3)
        return split.permute(0, 4, 1, 2, 5, 3, 6).reshape(
            len(latents), out_channels, output_num_frames, output_height, output_width
        )
