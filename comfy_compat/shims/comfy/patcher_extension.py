"""ComfyUI's `comfy.patcher_extension`: where functions hook in, and chains of wrappers."""

from comfy_compat.wrappers import WrapperExecutor  # noqa: F401  # packs import it from here


class CallbacksMP:
    ON_CLONE = "on_clone"
    ON_LOAD = "on_load_after"
    ON_DETACH = "on_detach_after"
    ON_CLEANUP = "on_cleanup"
    ON_PRE_RUN = "on_pre_run"
    ON_PREPARE_STATE = "on_prepare_state"
    ON_APPLY_HOOKS = "on_apply_hooks"
    ON_REGISTER_ALL_HOOK_PATCHES = "on_register_all_hook_patches"
    ON_INJECT_MODEL = "on_inject_model"
    ON_EJECT_MODEL = "on_eject_model"

    @classmethod
    def init_callbacks(cls):
        return {}


class WrappersMP:
    OUTER_SAMPLE = "outer_sample"
    PREPARE_SAMPLING = "prepare_sampling"
    SAMPLER_SAMPLE = "sampler_sample"
    PREDICT_NOISE = "predict_noise"
    CALC_COND_BATCH = "calc_cond_batch"
    APPLY_MODEL = "apply_model"
    DIFFUSION_MODEL = "diffusion_model"

    @classmethod
    def init_wrappers(cls):
        return {}


class PatcherInjection:
    """A pair of functions: one puts something into a model, the other takes it out."""

    def __init__(self, inject, eject):
        self.inject, self.eject = inject, eject


def _options(transformer_options, is_model_options):
    return (
        transformer_options.setdefault("transformer_options", {}) if is_model_options else transformer_options
    )


def _add(kind, call_type, key, function, transformer_options, is_model_options):
    options = _options(transformer_options, is_model_options)
    options.setdefault(kind, {}).setdefault(call_type, {}).setdefault(key, []).append(function)


def _get(kind, call_type, transformer_options, is_model_options):
    return _options(transformer_options, is_model_options).get(kind, {}).get(call_type, {})


def add_callback(call_type, callback, transformer_options, is_model_options=False):
    _add("callbacks", call_type, None, callback, transformer_options, is_model_options)


def add_callback_with_key(call_type, key, callback, transformer_options, is_model_options=False):
    _add("callbacks", call_type, key, callback, transformer_options, is_model_options)


def get_callbacks_with_key(call_type, key, transformer_options, is_model_options=False):
    return list(_get("callbacks", call_type, transformer_options, is_model_options).get(key, []))


def get_all_callbacks(call_type, transformer_options, is_model_options=False):
    found = _get("callbacks", call_type, transformer_options, is_model_options)
    return [one for listed in found.values() for one in listed]


def add_wrapper(wrapper_type, wrapper, transformer_options, is_model_options=False):
    _add("wrappers", wrapper_type, None, wrapper, transformer_options, is_model_options)


def add_wrapper_with_key(wrapper_type, key, wrapper, transformer_options, is_model_options=False):
    _add("wrappers", wrapper_type, key, wrapper, transformer_options, is_model_options)


def get_wrappers_with_key(wrapper_type, key, transformer_options, is_model_options=False):
    return list(_get("wrappers", wrapper_type, transformer_options, is_model_options).get(key, []))


def get_all_wrappers(wrapper_type, transformer_options, is_model_options=False):
    found = _get("wrappers", wrapper_type, transformer_options, is_model_options)
    return [one for listed in found.values() for one in listed]


def merge_nested_dicts(dict1, dict2, copy_dict1=True):
    """dict2 over dict1; lists are joined."""
    merged = {**dict1} if copy_dict1 else dict1
    for key, value in dict2.items():
        old = merged.get(key)
        if isinstance(value, dict):
            merged[key] = merge_nested_dicts(old if isinstance(old, dict) else {}, value)
        elif isinstance(value, list):
            merged[key] = [*(old or []), *value]
        else:
            merged[key] = value
    return merged


def copy_nested_dicts(input_dict):
    """Dicts and lists copied, all else shared."""
    return {
        key: copy_nested_dicts(value)
        if isinstance(value, dict)
        else list(value)
        if isinstance(value, list)
        else value
        for key, value in input_dict.items()
    }
