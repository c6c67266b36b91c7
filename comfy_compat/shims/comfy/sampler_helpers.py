"""ComfyUI's `comfy.sampler_helpers`."""

import uuid

import comfy.utils


def convert_cond(cond):
    """CONDITIONING as a list of dicts."""
    made = []
    for tensor, options in cond:
        one = {**options, "uuid": uuid.uuid4()}
        one["model_conds"] = one.get("model_conds", {})
        if tensor is not None:
            one["cross_attn"] = tensor
        made.append(one)
    return made


def prepare_mask(noise_mask, shape, device):
    return comfy.utils.reshape_mask(noise_mask, shape).to(device)


def get_models_from_cond(cond, model_type):
    return [one[model_type] for one in cond if model_type in one]


def get_additional_models(conds, dtype):
    """(models beside the denoiser, bytes that they take)."""
    return [], 0


def cleanup_additional_models(models):
    """There is nothing to clean up."""


def prepare_sampling(model, noise_shape, conds, model_options=None):
    return model, conds, []


def cleanup_models(conds, models):
    """There is nothing to clean up."""
