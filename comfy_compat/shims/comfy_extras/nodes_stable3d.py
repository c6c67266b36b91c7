"""ComfyUI's `comfy_extras.nodes_stable3d`: its nodes that the server has, as classes."""

from comfy_compat.builtin_classes import classes_of

globals().update(classes_of(__name__, bridge))
import torch  # noqa: E402


def camera_embeddings(elevation, azimuth):
    """[N, 1, 4]: how far a view's height is from level, sine and cosine of its direction, and 90 degrees."""
    height = torch.as_tensor([elevation]).flatten()
    direction = torch.as_tensor([azimuth]).flatten()
    parts = [
        torch.deg2rad((90 - height) - 90),
        torch.sin(torch.deg2rad(direction)),
        torch.cos(torch.deg2rad(direction)),
        torch.deg2rad(90 - torch.full_like(height, 0)),
    ]
    return torch.stack(parts, dim=-1).unsqueeze(1)
