"""ComfyUI's ModelPatcher, as packs hold it: a reference to a model, and what is to be done to it, as data.

Nothing here touches a network. Functions that packs set are packed with the reference and run where the model
does (`comfy_compat/foreign.py`); LoRAs are named on the reference.
"""

import uuid
from collections.abc import Callable, Mapping
from typing import Any

import torch

from backend.patches import Foreign
from backend.references import Model
from comfy_compat.foreign import Hooks
from comfy_compat.model_view import BaseModel


class ModelPatcher:
    """A MODEL value. reference: the server's model behind it; None: it is around a pack's own network."""

    def __init__(
        self,
        model: Any,
        load_device: Any = "cpu",
        offload_device: Any = "cpu",
        size: int = 0,
        weight_inplace_update: bool = False,
    ) -> None:
        self.reference: Model | None = getattr(model, "reference", None)
        self._model = model
        self.size = size
        self.load_device, self.offload_device = torch.device(load_device), torch.device(offload_device)
        self.weight_inplace_update = weight_inplace_update
        self.patches: dict[str, list[Any]] = {}
        self.backup: dict[str, Any] = {}
        self.object_patches: dict[str, Any] = {}
        self.object_patches_backup: dict[str, Any] = {}
        self.weight_wrapper_patches: dict[str, Any] = {}
        self.model_options: dict[str, Any] = {"transformer_options": {}}
        self.attachments: dict[str, Any] = {}
        self.additional_models: dict[str, list[Any]] = {}
        self.callbacks: dict[str, dict[Any, list[Any]]] = {}
        self.wrappers: dict[str, dict[Any, list[Any]]] = {}
        self.injections: dict[str, list[Any]] = {}
        self.hook_patches: dict[Any, Any] = {}
        self.forced_hooks: Any = None
        self.is_injected = False
        self.is_clip = False
        self.force_cast_weights = False
        self.patches_uuid = uuid.uuid4()
        self.parent: ModelPatcher | None = None

    @classmethod
    def of(cls, reference: Model) -> "ModelPatcher":
        """The handle of a model reference, with what packs recorded on it before."""
        made = cls.__new__(cls)
        ModelPatcher.__init__(made, None)
        made.reference = reference
        recorded = next((p for p in reference.patches if isinstance(p, Foreign)), None)
        if recorded is not None:
            hooks = Hooks.of(recorded)
            made.model_options = create_model_options_clone(hooks.model_options)
            made.object_patches = dict(hooks.object_patches)
            made.wrappers, made.callbacks = _deep(hooks.wrappers), _deep(hooks.callbacks)
            made.attachments = dict(hooks.attachments)
        return made

    @property
    def model(self) -> Any:
        """What `MODEL.model` is: the model's facts. Looked up when somebody asks."""
        if self._model is None and self.reference is not None:
            self._model = BaseModel.of(self.reference)
            self._model.current_patcher = self
        return self._model

    @model.setter
    def model(self, value: Any) -> None:
        self._model = value

    def hooks(self) -> Hooks:
        """What packs recorded, ready to be packed."""
        return Hooks(self.model_options, self.object_patches, self.wrappers, self.callbacks, self.attachments)

    # -- copies --------------------------------------------------------------------------------------

    def clone(self) -> "ModelPatcher":
        """A patcher of its own over the same model."""
        made = self.__class__.__new__(self.__class__)
        vars(made).update(vars(self))
        made.patches = {key: list(listed) for key, listed in self.patches.items()}
        made.object_patches = dict(self.object_patches)
        made.weight_wrapper_patches = dict(self.weight_wrapper_patches)
        made.model_options = create_model_options_clone(self.model_options)
        made.attachments = {
            key: value.on_model_patcher_clone() if hasattr(value, "on_model_patcher_clone") else value
            for key, value in self.attachments.items()
        }
        made.additional_models = {key: list(models) for key, models in self.additional_models.items()}
        made.callbacks, made.wrappers = _deep(self.callbacks), _deep(self.wrappers)
        made.injections = {key: list(listed) for key, listed in self.injections.items()}
        made.parent = self
        for callback in self.get_all_callbacks("on_clone"):
            callback(self, made)
        return made

    def is_clone(self, other: object) -> bool:
        same = self.reference is not None and getattr(other, "reference", None) is not None
        if same and isinstance(other, ModelPatcher) and self.reference and other.reference:
            return self.reference.weights == other.reference.weights
        return getattr(other, "_model", self) is self._model and self._model is not None

    def clone_has_same_weights(self, clone: "ModelPatcher") -> bool:
        return self.is_clone(clone) and self.patches_uuid == clone.patches_uuid

    def model_size(self) -> int:
        """Bytes of its weights."""
        if self.size == 0 and self.reference is not None:
            self.size = self.reference.weights.nbytes
        return self.size

    def loaded_size(self) -> int:
        return 0

    def memory_required(self, input_shape: Any) -> float:
        return float(self.model.memory_required(input_shape))

    def model_dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.model.get_dtype() if hasattr(self.model, "get_dtype") else torch.float32
        return dtype

    def current_loaded_device(self) -> torch.device:
        return self.load_device

    def lowvram_patch_counter(self) -> int:
        return 0

    # -- functions of a run --------------------------------------------------------------------------

    def set_model_sampler_cfg_function(self, function: Any, disable_cfg1_optimization: bool = False) -> None:
        """In place of guidance. A function of (cond, uncond, scale), or of one dict."""
        names = getattr(getattr(function, "__code__", None), "co_varnames", ())
        count = getattr(getattr(function, "__code__", None), "co_argcount", 1)
        if count == 3 and "self" not in names[:1]:
            self.model_options["sampler_cfg_function"] = _of_dict(function)
        else:
            self.model_options["sampler_cfg_function"] = function
        self._without_shortcut(disable_cfg1_optimization)

    def set_model_sampler_post_cfg_function(
        self, post_cfg_function: Any, disable_cfg1_optimization: bool = False
    ) -> None:
        self.model_options = set_model_options_post_cfg_function(
            self.model_options, post_cfg_function, disable_cfg1_optimization
        )

    def set_model_sampler_pre_cfg_function(
        self, pre_cfg_function: Any, disable_cfg1_optimization: bool = False
    ) -> None:
        self.model_options = set_model_options_pre_cfg_function(
            self.model_options, pre_cfg_function, disable_cfg1_optimization
        )

    def set_model_sampler_calc_cond_batch_function(self, sampler_calc_cond_batch_function: Any) -> None:
        self.model_options["sampler_calc_cond_batch_function"] = sampler_calc_cond_batch_function

    def _without_shortcut(self, disable: bool) -> None:
        if disable:
            self.model_options["disable_cfg1_optimization"] = True

    def set_model_unet_function_wrapper(self, unet_wrapper_function: Any) -> None:
        self.model_options["model_function_wrapper"] = unet_wrapper_function

    def set_model_denoise_mask_function(self, denoise_mask_function: Any) -> None:
        self.model_options["denoise_mask_function"] = denoise_mask_function

    def set_model_patch(self, patch: Any, name: str) -> None:
        patches = self.model_options["transformer_options"].setdefault("patches", {})
        patches[name] = [*patches.get(name, []), patch]

    def set_model_patch_replace(
        self, patch: Any, name: str, block_name: str, number: int, transformer_index: int | None = None
    ) -> None:
        self.model_options = set_model_options_patch_replace(
            self.model_options, patch, name, block_name, number, transformer_index
        )

    def set_model_attn1_patch(self, patch: Any) -> None:
        self.set_model_patch(patch, "attn1_patch")

    def set_model_attn2_patch(self, patch: Any) -> None:
        self.set_model_patch(patch, "attn2_patch")

    def set_model_attn1_replace(
        self, patch: Any, block_name: str, number: int, transformer_index: int | None = None
    ) -> None:
        self.set_model_patch_replace(patch, "attn1", block_name, number, transformer_index)

    def set_model_attn2_replace(
        self, patch: Any, block_name: str, number: int, transformer_index: int | None = None
    ) -> None:
        self.set_model_patch_replace(patch, "attn2", block_name, number, transformer_index)

    def set_model_attn1_output_patch(self, patch: Any) -> None:
        self.set_model_patch(patch, "attn1_output_patch")

    def set_model_attn2_output_patch(self, patch: Any) -> None:
        self.set_model_patch(patch, "attn2_output_patch")

    def set_model_input_block_patch(self, patch: Any) -> None:
        self.set_model_patch(patch, "input_block_patch")

    def set_model_input_block_patch_after_skip(self, patch: Any) -> None:
        self.set_model_patch(patch, "input_block_patch_after_skip")

    def set_model_output_block_patch(self, patch: Any) -> None:
        self.set_model_patch(patch, "output_block_patch")

    def set_model_emb_patch(self, patch: Any) -> None:
        self.set_model_patch(patch, "emb_patch")

    def set_model_forward_timestep_embed_patch(self, patch: Any) -> None:
        self.set_model_patch(patch, "forward_timestep_embed_patch")

    def set_model_double_block_patch(self, patch: Any) -> None:
        self.set_model_patch(patch, "double_block")

    def set_model_post_input_patch(self, patch: Any) -> None:
        self.set_model_patch(patch, "post_input")

    # -- objects of the model ------------------------------------------------------------------------

    def add_object_patch(self, name: str, obj: Any) -> None:
        """Put an object in the place of one of the model's, for a run."""
        self.object_patches[name] = obj

    def get_model_object(self, name: str) -> Any:
        """An object of the model by its path, or what was put in its place."""
        if name in self.object_patches:
            return self.object_patches[name]
        found = self.model
        for part in name.split("."):
            found = getattr(found, part)
        return found

    def set_model_compute_dtype(self, dtype: torch.dtype) -> None:
        self.add_object_patch("manual_cast_dtype", dtype)

    def add_weight_wrapper(self, name: str, function: Any) -> None:
        self.weight_wrapper_patches.setdefault(name, []).append(function)

    # -- weights -------------------------------------------------------------------------------------

    def add_patches(
        self, patches: Mapping[Any, Any], strength_patch: float = 1.0, strength_model: float = 1.0
    ) -> list[Any]:
        """Differences of weights, by the weights' names. Returns: those that were taken."""
        taken = []
        for key, patch in patches.items():
            name, offset, function = key, None, None
            if not isinstance(key, str):
                name, offset, function = (*key, None, None)[:3]
            self.patches.setdefault(name, []).append(
                (strength_patch, patch, strength_model, offset, function)
            )
            taken.append(key)
        self.patches_uuid = uuid.uuid4()
        return taken

    def calculate_weight(
        self, patches: Any, weight: Any, key: str, intermediate_dtype: torch.dtype = torch.float32
    ) -> Any:
        """A weight with patches applied."""
        for strength, patch, strength_model, *_ in patches:
            weight = weight * strength_model + patch[-1][0].to(weight) * strength
        return weight

    def get_key_patches(self, filter_prefix: str | None = None) -> dict[str, list[Any]]:
        named = self.model_state_dict(filter_prefix)
        return {key: [weight, *self.patches.get(key, [])] for key, weight in named.items()}

    def model_state_dict(self, filter_prefix: str | None = None) -> dict[str, Any]:
        """Weights by name; none for the server's own models, which are in the workers."""
        weights = dict(self.model.state_dict())
        if filter_prefix is not None:
            weights = {key: weight for key, weight in weights.items() if key.startswith(filter_prefix)}
        return weights

    def patch_model(self, device_to: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Move a pack's own network to a device. The server's are patched while they run."""
        if self.reference is None and hasattr(self.model, "to") and device_to is not None:
            self.model.to(device_to)
        return self.model

    def unpatch_model(self, device_to: Any = None, unpatch_weights: bool = True) -> None:
        if self.reference is None and hasattr(self.model, "to") and device_to is not None:
            self.model.to(device_to)

    def model_patches_to(self, device: Any) -> None:
        """Patches are moved where they run."""

    def model_patches_models(self) -> list[Any]:
        return []

    def detach(self, unpatch_all: bool = True) -> Any:
        return self.model

    def partially_load(self, *args: Any, **kwargs: Any) -> int:
        return 0

    def partially_unload(self, *args: Any, **kwargs: Any) -> int:
        return 0

    # -- attachments, models beside it ---------------------------------------------------------------

    def set_attachments(self, key: str, attachment: Any) -> None:
        self.attachments[key] = attachment

    def get_attachment(self, key: str) -> Any:
        return self.attachments.get(key)

    def remove_attachments(self, key: str) -> None:
        self.attachments.pop(key, None)

    def set_additional_models(self, key: str, models: list[Any]) -> None:
        self.additional_models[key] = models

    def remove_additional_models(self, key: str) -> None:
        self.additional_models.pop(key, None)

    def get_additional_models_with_key(self, key: str) -> list[Any]:
        return self.additional_models.get(key, [])

    def get_additional_models(self) -> list[Any]:
        return [model for models in self.additional_models.values() for model in models]

    def get_nested_additional_models(self) -> list[Any]:
        return self.get_additional_models()

    def set_injections(self, key: str, injections: list[Any]) -> None:
        self.injections[key] = injections

    def remove_injections(self, key: str) -> None:
        self.injections.pop(key, None)

    def get_injections(self, key: str) -> list[Any] | None:
        return self.injections.get(key)

    # -- callbacks and wrappers ----------------------------------------------------------------------

    def add_callback(self, call_type: str, callback: Any) -> None:
        self.add_callback_with_key(call_type, None, callback)

    def add_callback_with_key(self, call_type: str, key: Any, callback: Any) -> None:
        self.callbacks.setdefault(call_type, {}).setdefault(key, []).append(callback)

    def remove_callbacks_with_key(self, call_type: str, key: Any) -> None:
        self.callbacks.get(call_type, {}).pop(key, None)

    def get_callbacks(self, call_type: str, key: Any) -> list[Any]:
        return self.callbacks.get(call_type, {}).get(key, [])

    def get_all_callbacks(self, call_type: str) -> list[Any]:
        return [one for listed in self.callbacks.get(call_type, {}).values() for one in listed]

    def add_wrapper(self, wrapper_type: str, wrapper: Any) -> None:
        self.add_wrapper_with_key(wrapper_type, None, wrapper)

    def add_wrapper_with_key(self, wrapper_type: str, key: Any, wrapper: Any) -> None:
        self.wrappers.setdefault(wrapper_type, {}).setdefault(key, []).append(wrapper)

    def remove_wrappers_with_key(self, wrapper_type: str, key: Any) -> None:
        self.wrappers.get(wrapper_type, {}).pop(key, None)

    def get_wrappers(self, wrapper_type: str, key: Any) -> list[Any]:
        return self.wrappers.get(wrapper_type, {}).get(key, [])

    def get_all_wrappers(self, wrapper_type: str) -> list[Any]:
        return [one for listed in self.wrappers.get(wrapper_type, {}).values() for one in listed]

    # -- hooks: kept with the patcher ----------------------------------------------------------------

    def register_all_hook_patches(self, *args: Any, **kwargs: Any) -> None:
        """Hooks of weights are part of conditions here."""

    def apply_hooks(self, hooks: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {}

    def unpatch_hooks(self, *args: Any, **kwargs: Any) -> None:
        """There is nothing to undo."""

    def pre_run(self) -> None:
        for callback in self.get_all_callbacks("on_pre_run"):
            callback(self)

    def prepare_state(self, timestep: Any) -> None:
        for callback in self.get_all_callbacks("on_prepare_state"):
            callback(self, timestep)

    def cleanup(self) -> None:
        for callback in self.get_all_callbacks("on_cleanup"):
            callback(self)


def create_model_options_clone(orig_model_options: dict[str, Any]) -> dict[str, Any]:
    """A copy whose dicts and lists are its own, and whose functions are shared."""
    made: dict[str, Any] = _deep(orig_model_options)
    return made


def set_model_options_patch_replace(
    model_options: dict[str, Any],
    patch: Any,
    name: str,
    block_name: str,
    number: int,
    transformer_index: int | None = None,
) -> dict[str, Any]:
    """A copy of the options with a function in the place of a block's attention."""
    options: dict[str, Any] = _deep(model_options)
    replaced = options.setdefault("transformer_options", {}).setdefault("patches_replace", {})
    place = (block_name, number) if transformer_index is None else (block_name, number, transformer_index)
    replaced.setdefault(name, {})[place] = patch
    return options


def set_model_options_post_cfg_function(
    model_options: dict[str, Any], post_cfg_function: Any, disable_cfg1_optimization: bool = False
) -> dict[str, Any]:
    return _with_function(
        model_options, "sampler_post_cfg_function", post_cfg_function, disable_cfg1_optimization
    )


def set_model_options_pre_cfg_function(
    model_options: dict[str, Any], pre_cfg_function: Any, disable_cfg1_optimization: bool = False
) -> dict[str, Any]:
    return _with_function(
        model_options, "sampler_pre_cfg_function", pre_cfg_function, disable_cfg1_optimization
    )


def _with_function(options: dict[str, Any], name: str, function: Any, whole: bool) -> dict[str, Any]:
    options[name] = [*options.get(name, []), function]
    if whole:
        options["disable_cfg1_optimization"] = True
    return options


def _of_dict(function: Callable[[Any, Any, Any], Any]) -> Callable[[dict[str, Any]], Any]:
    """An old sampler function, of three arguments, as one of a dict."""
    return lambda args: function(args["cond"], args["uncond"], args["cond_scale"])


def _deep(value: Any) -> Any:
    """Dicts and lists copied, all else shared."""
    if type(value) is dict:
        return {key: _deep(item) for key, item in value.items()}
    if type(value) is list:
        return [_deep(item) for item in value]
    return value


__all__ = [
    "ModelPatcher",
    "create_model_options_clone",
    "set_model_options_patch_replace",
    "set_model_options_post_cfg_function",
    "set_model_options_pre_cfg_function",
]
