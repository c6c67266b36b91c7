"""ComfyUI's `comfy.hooks`: things that act on a condition, some of the time. Kept with conditions as data."""

import enum

import torch

from comfy_compat.patcher import ModelPatcher  # noqa: F401


class EnumHookMode(enum.Enum):
    MinVram = "minvram"
    MaxSpeed = "maxspeed"


class EnumHookType(enum.Enum):
    Weight = "weight"
    ObjectPatch = "object_patch"
    AdditionalModels = "add_models"
    TransformerOptions = "transformer_options"
    Injections = "add_injections"


class EnumWeightTarget(enum.Enum):
    Model = "model"
    Clip = "clip"


class EnumHookScope(enum.Enum):
    AllConditioning = "all_conditioning"
    HookedOnly = "hooked_only"


class Hook:
    """One thing that acts on a condition."""

    def __init__(
        self,
        hook_type=None,
        hook_ref=None,
        hook_id=None,
        hook_keyframe=None,
        hook_scope=EnumHookScope.AllConditioning,
    ):
        self.hook_type = hook_type
        self.hook_ref = hook_ref if hook_ref is not None else object()
        self.hook_id = hook_id
        self.hook_keyframe = hook_keyframe if hook_keyframe is not None else HookKeyframeGroup()
        self.hook_scope = hook_scope
        self.custom_should_register = None

    @property
    def strength(self):
        return self.hook_keyframe.strength

    def reset(self):
        self.hook_keyframe.reset()

    def clone(self):
        made = self.__class__.__new__(self.__class__)
        vars(made).update(vars(self))
        return made


class WeightHook(Hook):
    def __init__(self, strength_model=1.0, strength_clip=1.0):
        super().__init__(hook_type=EnumHookType.Weight)
        self.weights = None
        self.strength_model, self.strength_clip = strength_model, strength_clip


class ObjectPatchHook(Hook):
    def __init__(self, object_patches=None, hook_scope=EnumHookScope.AllConditioning):
        super().__init__(hook_type=EnumHookType.ObjectPatch, hook_scope=hook_scope)
        self.object_patches = object_patches


class AdditionalModelsHook(Hook):
    def __init__(self, models=None, key=None):
        super().__init__(hook_type=EnumHookType.AdditionalModels)
        self.models, self.key = models, key


class TransformerOptionsHook(Hook):
    def __init__(self, transformers_dict=None, hook_scope=EnumHookScope.AllConditioning):
        super().__init__(hook_type=EnumHookType.TransformerOptions, hook_scope=hook_scope)
        self.transformers_dict = transformers_dict


WrapperHook = TransformerOptionsHook


class InjectionsHook(Hook):
    def __init__(self, key=None, injections=None, hook_scope=EnumHookScope.AllConditioning):
        super().__init__(hook_type=EnumHookType.Injections, hook_scope=hook_scope)
        self.key, self.injections = key, injections


class HookGroup:
    """Hooks that act together."""

    def __init__(self):
        self.hooks = []

    def __len__(self):
        return len(self.hooks)

    def add(self, hook):
        if hook not in self.hooks:
            self.hooks.append(hook)

    def remove(self, hook):
        if hook in self.hooks:
            self.hooks.remove(hook)

    def contains(self, hook):
        return hook in self.hooks

    def get_type(self, hook_type):
        return [hook for hook in self.hooks if hook.hook_type == hook_type]

    def clone(self):
        made = HookGroup()
        made.hooks = [hook.clone() for hook in self.hooks]
        return made

    def clone_and_combine(self, other):
        made = self.clone()
        for hook in [] if other is None else other.hooks:
            made.add(hook.clone())
        return made

    def reset(self):
        for hook in self.hooks:
            hook.reset()

    def set_keyframes_on_hooks(self, hook_kf):
        keyframes = HookKeyframeGroup() if hook_kf is None else hook_kf.clone()
        for hook in self.hooks:
            hook.hook_keyframe = keyframes

    @staticmethod
    def combine_all_hooks(hooks_list, require_count=0):
        """All groups as one; None where fewer than `require_count` are there."""
        found = [group for group in hooks_list if group is not None]
        if not found or (require_count > 1 and len(found) < require_count):
            return None if not found else found[0]
        made = found[0].clone()
        for group in found[1:]:
            made = made.clone_and_combine(group)
        return made


class HookKeyframe:
    """A strength from a percent of the run on."""

    def __init__(self, strength, start_percent=0.0, guarantee_steps=1):
        self.strength, self.start_percent, self.guarantee_steps = (
            strength,
            float(start_percent),
            guarantee_steps,
        )
        self.start_t = 999999999.9

    def clone(self):
        made = HookKeyframe(self.strength, self.start_percent, self.guarantee_steps)
        made.start_t = self.start_t
        return made


class HookKeyframeGroup:
    """Strengths over a run."""

    def __init__(self):
        self.keyframes = []
        self._current_keyframe = None
        self._current_index = 0
        self._current_strength = None

    @property
    def strength(self):
        return 1.0 if self._current_keyframe is None else self._current_keyframe.strength

    def reset(self):
        self._current_index = 0
        self._current_keyframe = self.keyframes[0] if self.keyframes else None

    def add(self, keyframe):
        self.keyframes.append(keyframe)
        self.keyframes.sort(key=lambda k: k.start_percent)
        self.reset()

    def is_empty(self):
        return not self.keyframes

    def has_index(self, index):
        return 0 <= index < len(self.keyframes)

    def clone(self):
        made = HookKeyframeGroup()
        made.keyframes = [keyframe.clone() for keyframe in self.keyframes]
        made.reset()
        return made


class InterpolationMethod:
    LINEAR = "linear"
    EASE_IN = "ease_in"
    EASE_OUT = "ease_out"
    EASE_IN_OUT = "ease_in_out"
    _LIST = (LINEAR, EASE_IN, EASE_OUT, EASE_IN_OUT)

    @classmethod
    def get_weights(cls, num_from, num_to, length, method, reverse=False):
        """`length` numbers from one to the other."""
        t = torch.linspace(0, 1, length)
        shaped = {
            cls.EASE_IN: t**2,
            cls.EASE_OUT: 1 - (1 - t) ** 2,
            cls.EASE_IN_OUT: torch.where(t < 0.5, 2 * t**2, 1 - (-2 * t + 2) ** 2 / 2),
        }.get(method, t)
        weights = num_from + (num_to - num_from) * shaped
        return weights.flip(0) if reverse else weights


def create_hook_lora(lora, strength_model, strength_clip):
    group = HookGroup()
    hook = WeightHook(strength_model, strength_clip)
    hook.weights = lora
    group.add(hook)
    return group


def create_hook_model_as_lora(weights_model, weights_clip, strength_model, strength_clip):
    return create_hook_lora((weights_model, weights_clip), strength_model, strength_clip)


def load_hook_lora_for_models(model, clip, lora, strength_model, strength_clip):
    import comfy.sd

    return comfy.sd.load_lora_for_models(model, clip, lora, strength_model, strength_clip)


def conditioning_set_values(conditioning, values={}, append_hooks=True, cache=None):
    """A copy of a CONDITIONING with keys set in every dict; hooks are joined."""
    made = []
    for tensor, options in conditioning:
        changed = options.copy()
        for key, value in values.items():
            if key == "hooks" and append_hooks and options.get("hooks") is not None:
                value = options["hooks"].clone_and_combine(value)
            changed[key] = value
        made.append([tensor, changed])
    return made


def set_hooks_for_conditioning(cond, hooks, append_hooks=True, cache=None):
    return cond if hooks is None else conditioning_set_values(cond, {"hooks": hooks}, append_hooks)


def set_timesteps_for_conditioning(cond, timestep_range):
    if timestep_range is None:
        return cond
    return conditioning_set_values(
        cond, {"start_percent": timestep_range[0], "end_percent": timestep_range[1]}
    )


def set_mask_for_conditioning(cond, mask, set_cond_area, strength):
    if mask is None:
        return cond
    mask = mask.unsqueeze(0) if mask.ndim < 3 else mask
    values = {"mask": mask, "set_area_to_bounds": set_cond_area != "default", "mask_strength": strength}
    return conditioning_set_values(cond, values)


def combine_conditioning(conds):
    return [pair for cond in conds for pair in cond]


def combine_with_new_conds(conds, new_conds):
    return [[*old, *new] for old, new in zip(conds, new_conds, strict=True)]


def set_conds_props(
    conds, strength, set_cond_area, mask=None, hooks=None, timesteps_range=None, append_hooks=True
):
    """Conditions with a mask, hooks and a range of time."""
    made = []
    for cond in conds:
        cond = set_hooks_for_conditioning(cond, hooks, append_hooks)
        cond = set_mask_for_conditioning(cond, mask, set_cond_area, strength)
        made.append(set_timesteps_for_conditioning(cond, timesteps_range))
    return made


def set_conds_props_and_combine(
    conds,
    new_conds,
    strength=1.0,
    set_cond_area="default",
    mask=None,
    hooks=None,
    timesteps_range=None,
    append_hooks=True,
):
    added = set_conds_props(new_conds, strength, set_cond_area, mask, hooks, timesteps_range, append_hooks)
    return combine_with_new_conds(conds, added)


def set_default_conds_and_combine(conds, new_conds, hooks=None, timesteps_range=None, append_hooks=True):
    made = []
    for old, new in zip(conds, new_conds, strict=True):
        new = conditioning_set_values(set_hooks_for_conditioning(new, hooks, append_hooks), {"default": True})
        made.append([*old, *set_timesteps_for_conditioning(new, timesteps_range)])
    return made
