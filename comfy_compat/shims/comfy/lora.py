"""ComfyUI's `comfy.lora`: names of weights, and what patches make of a weight."""

import torch

import comfy.utils

LORA_CLIP_MAP = {
    "mlp.fc1": "mlp_fc1",
    "mlp.fc2": "mlp_fc2",
    "self_attn.k_proj": "self_attn_k_proj",
    "self_attn.q_proj": "self_attn_q_proj",
    "self_attn.v_proj": "self_attn_v_proj",
    "self_attn.out_proj": "self_attn_out_proj",
}


def model_lora_keys_unet(model, key_map={}):
    """LoRA files' names of a denoiser's layers -> the layers' weights."""
    config = getattr(getattr(model, "model_config", None), "unet_config", {})
    for ours, theirs in (
        comfy.utils.unet_to_diffusers(config).items() if "transformer_depth" in config else ()
    ):
        if ours.endswith(".weight"):
            key_map[f"lora_unet_{ours[: -len('.weight')].replace('.', '_')}"] = f"diffusion_model.{theirs}"
    return key_map


def model_lora_keys_clip(model, key_map={}):
    """As `model_lora_keys_unet`, for CLIP-L's layers."""
    for layer in range(12):
        for name, flat in LORA_CLIP_MAP.items():
            target = f"clip_l.transformer.text_model.encoder.layers.{layer}.{name}.weight"
            key_map[f"lora_te_text_model_encoder_layers_{layer}_{flat}"] = target
    return key_map


def load_lora(lora, to_load, log_missing=True):
    """The LoRA's tensors, by the weights that they change: ("lora", (up, down, alpha, None, None, None))."""
    found = {}
    for name, target in to_load.items():
        up, down = lora.get(f"{name}.lora_up.weight"), lora.get(f"{name}.lora_down.weight")
        alpha = lora.get(f"{name}.alpha")
        if up is not None and down is not None:
            scale = None if alpha is None else alpha.item()
            found[target] = ("lora", (up, down, scale, None, None, None))
        elif (diff := lora.get(f"{name}.diff")) is not None:
            found[target] = ("diff", (diff,))
    return found


def calculate_weight(patches, weight, key, intermediate_dtype=torch.float32, original_weights=None):
    """A weight with patches applied, in order: differences and plain LoRAs.

    Raises: NotImplementedError for other kinds.
    """
    for strength, patch, strength_model, offset, function in patches:
        if strength_model != 1.0:
            weight = weight * strength_model
        if isinstance(patch, list):
            patch = ("diff", (calculate_weight(patch[1:], patch[0][0].clone(), key, intermediate_dtype),))
        kind, parts = ("diff", patch) if len(patch) == 1 else patch[:2]
        if kind == "diff":
            change = parts[0].to(weight.device, intermediate_dtype)
        elif kind == "set":
            weight = parts[0].to(weight.device, weight.dtype)
            continue
        elif kind == "lora":
            up, down, alpha = parts[0], parts[1], parts[2]
            rank = down.shape[0]
            product = up.flatten(1).to(intermediate_dtype) @ down.flatten(1).to(intermediate_dtype)
            change = product.reshape(weight.shape).to(weight.device) * ((alpha or rank) / rank)
        else:
            raise NotImplementedError(f"{key}: a patch of kind {kind!r}; apply LoRAs by their files")
        change = change * strength
        if function is not None:
            change = function(change)
        if offset is not None:
            weight.narrow(*offset).add_(change.to(weight.dtype))
        else:
            weight = weight + change.to(weight.dtype)
    return weight
