"""ComfyUI's `comfy.controlnet`."""

import os
from enum import Enum

import comfy.sd
from comfy_compat.control import ControlBase, ControlLora, ControlNet, T2IAdapter  # noqa: F401


class StrengthType(Enum):
    CONSTANT = 1
    LINEAR_UP = 2


class ControlNetSD35(ControlNet): ...


def broadcast_image_to(tensor, target_batch_size, batched_number):
    """Pictures as many as there are rows."""
    if tensor.shape[0] == 1:
        return tensor
    each = target_batch_size // batched_number
    tensor = tensor[:each]
    if each > tensor.shape[0]:
        import torch

        tensor = torch.cat([tensor] * (each // tensor.shape[0]) + [tensor[: each % tensor.shape[0]]], dim=0)
    return tensor if tensor.shape[0] == target_batch_size else tensor.repeat(batched_number, 1, 1, 1)


def load_controlnet(ckpt_path, model=None, model_options={}):
    """A ControlNet by its file."""
    import backend.references

    average = os.path.splitext(ckpt_path)[0].endswith(("_shuffle", "_shuffle_fp16"))
    return ControlNet(backend.references.ControlNet(comfy.sd.weights("controlnet", ckpt_path), average))


def load_controlnet_state_dict(state_dict, model=None, model_options={}):
    return load_controlnet(comfy.sd.file_of(state_dict))
