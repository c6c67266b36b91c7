"""ComfyUI's `comfy.model_patcher`."""

from comfy.patcher_extension import CallbacksMP, PatcherInjection, WrappersMP
from comfy_compat.patcher import (
    ModelPatcher,
    create_model_options_clone,
    set_model_options_patch_replace,
    set_model_options_post_cfg_function,
    set_model_options_pre_cfg_function,
)

__all__ = [
    "CallbacksMP",
    "ModelPatcher",
    "PatcherInjection",
    "WrappersMP",
    "create_model_options_clone",
    "set_model_options_patch_replace",
    "set_model_options_post_cfg_function",
    "set_model_options_pre_cfg_function",
]
