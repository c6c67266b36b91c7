"""ComfyUI's `comfy.ldm.common_dit`."""

import torch


def pad_to_patch_size(img, patch_size=(2, 2), padding_mode="circular"):
    """[B, C, *dims] padded behind, to whole patches."""
    pad = [x for axis in reversed(range(img.ndim - 2)) for x in (0, -img.shape[axis + 2] % patch_size[axis])]
    if padding_mode == "circular" and (torch.jit.is_tracing() or torch.jit.is_scripting()):
        padding_mode = "reflect"
    return torch.nn.functional.pad(img, pad, mode=padding_mode) if any(pad) else img


def rms_norm(x, weight=None, eps=1e-6):
    return torch.nn.functional.rms_norm(x, (x.shape[-1],), None if weight is None else weight.to(x), eps)
