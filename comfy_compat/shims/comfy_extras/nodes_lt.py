"""ComfyUI's `comfy_extras.nodes_lt`: its nodes that the server has, as classes."""

from comfy_compat.builtin_classes import classes_of

globals().update(classes_of(__name__, bridge))
import torch  # noqa: E402
from comfy.ldm.lightricks.symmetric_patchifier import SymmetricPatchifier  # noqa: E402, F401


def get_noise_mask(latent):
    """A latent's noise mask, [B, 1, T, 1, 1]; all ones where it has none."""
    mask, samples = latent.get("noise_mask"), latent["samples"]
    if mask is not None:
        return mask.clone()
    return torch.ones(
        (samples.shape[0], 1, samples.shape[2], 1, 1), dtype=torch.float32, device=samples.device
    )
