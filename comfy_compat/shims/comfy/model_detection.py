"""ComfyUI's `comfy.model_detection`: what tensors' names say of a model."""

import comfy.supported_models_base

_PREFIXES = ("model.diffusion_model.", "model.model.", "net.")


def count_blocks(state_dict_keys, prefix_string):
    """How many blocks there are, by names like "blocks.{}."."""
    count = 0
    while any(key.startswith(prefix_string.format(count)) for key in state_dict_keys):
        count += 1
    return count


def unet_prefix_from_state_dict(state_dict):
    """What stands before a denoiser's names in a checkpoint."""
    counts = {prefix: sum(key.startswith(prefix) for key in state_dict) for prefix in _PREFIXES}
    best = max(counts, key=counts.get)
    return best if counts[best] > 5 else "model."


def convert_config(unet_config):
    return dict(unet_config)


def detect_unet_config(state_dict, key_prefix, metadata=None):
    """A UNet's configuration, as far as its tensors tell; None for other networks."""
    names = [key[len(key_prefix) :] for key in state_dict if key.startswith(key_prefix)]
    first = f"{key_prefix}input_blocks.0.0.weight"
    if first not in state_dict:
        return None
    weight = state_dict[first]
    levels = count_blocks(names, "input_blocks.{}.")
    config = {
        "in_channels": weight.shape[1],
        "model_channels": weight.shape[0],
        "out_channels": 4,
        "input_blocks": levels,
        "use_spatial_transformer": True,
    }
    context = next((k for k in names if k.endswith("attn2.to_k.weight")), None)
    if context is not None:
        config["context_dim"] = state_dict[key_prefix + context].shape[1]
    return config


def model_config_from_unet(state_dict, unet_key_prefix, use_base_if_no_match=False, metadata=None):
    config = detect_unet_config(state_dict, unet_key_prefix, metadata)
    return None if config is None else comfy.supported_models_base.BASE(config)


def model_config_from_unet_config(unet_config, state_dict=None):
    return comfy.supported_models_base.BASE(unet_config)


def unet_config_from_diffusers_unet(state_dict, dtype=None):
    """diffusers' names are converted by the server's loaders."""
    return None


def model_config_from_diffusers_unet(state_dict):
    return None
