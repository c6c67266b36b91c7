"""What reference workflows need and the server does not have yet.

`test_parity.py` holds these lists to the truth: a name that is missing here fails, and so does one that is no
longer needed.
"""

CLASSES: frozenset[str] = frozenset(
    {
        "BetaSamplingScheduler",
        "CLIPTextEncodeSDXL",
        "ControlNetApply",
        "ControlNetApplyAdvanced",
        "ControlNetLoader",
        "DualCFGGuider",
        "FreeU_V2",
        "ImageUpscaleWithModel",
        "InpaintModelConditioning",
        "ModelSamplingDiscrete",
        "ModelSamplingSD3",
        "PatchModelAddDownscale",
        "PerpNegGuider",
        "PerturbedAttentionGuidance",
        "RescaleCFG",
        "SDTurboScheduler",
        "SelfAttentionGuidance",
        "UpscaleModelLoader",
    }
)

MODELS = frozenset({"clip_g", "controlnet_sd15", "lora_sdxl", "sd3", "sdxl", "upscaler_esrgan"})

# Cases whose nodes are there and which ask them for something that is refused by name.
CASES = {
    "cond-area": "conditioning by area",
    "cond-mask-bounds": "conditioning by mask",
    "cond-timestep-range": "conditioning by range of time",
}
