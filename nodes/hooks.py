"""Hooks: LoRAs for single conditions, with keyframes; and properties of one conditioning or of a pair."""

import logging
import math
from collections.abc import Iterable
from typing import Annotated

from backend.library import Library
from backend.node import Choice, Float, Int, Widget, node
from backend.references import Clip, ClipHooks, Hook, Hooks, Keyframe, Keyframes, OtherModel
from backend.storage import Storage
from backend.types import Cond, Conditioning, Mask, Wire
from nodes.conditioning import Strength, with_options

CATEGORY = "advanced/hooks"
MODULE = "comfy_extras.nodes_hooks"
PAIR = ("positive", "negative")
HOOK_KF = ("HOOK_KF",)
Percent = Annotated[float, Float(0.0, 1.0, step=0.001)]
LoraStrength = Annotated[float, Float(-20.0, 20.0, step=0.01)]
Area = Annotated[str, Choice(("default", "mask bounds"))]
Range = Annotated[tuple[float, float], Wire("TIMESTEPS_RANGE")]
LoraName = Annotated[str, Choice(lambda s: s.files("loras"))]
CheckpointName = Annotated[str, Choice(lambda s: s.files("checkpoints"))]

_log = logging.getLogger(__name__)


@node(
    "PairConditioningSetProperties",
    category=f"{CATEGORY}/cond pair",
    module=MODULE,
    display_name="Cond Pair Set Props",
    outputs=PAIR,
    experimental=True,
)
def pair_conditioning_set_properties(
    *,
    positive_NEW: Conditioning,
    negative_NEW: Conditioning,
    strength: Strength = 1.0,
    set_cond_area: Area,
    mask: Mask | None = None,
    hooks: Hooks | None = None,
    timesteps: Range | None = None,
) -> tuple[Conditioning, Conditioning]:
    """Hooks, a mask and a time for both conditionings."""
    positive, negative = (
        with_properties(new, strength, set_cond_area, mask, hooks, timesteps)
        for new in (positive_NEW, negative_NEW)
    )
    return positive, negative


@node(
    "PairConditioningSetPropertiesAndCombine",
    category=f"{CATEGORY}/cond pair",
    module=MODULE,
    display_name="Cond Pair Set Props Combine",
    outputs=PAIR,
    experimental=True,
)
def pair_conditioning_set_properties_and_combine(
    *,
    positive: Conditioning,
    negative: Conditioning,
    positive_NEW: Conditioning,
    negative_NEW: Conditioning,
    strength: Strength = 1.0,
    set_cond_area: Area,
    mask: Mask | None = None,
    hooks: Hooks | None = None,
    timesteps: Range | None = None,
) -> tuple[Conditioning, Conditioning]:
    """Hooks, a mask and a time for the new conditionings, which join the others."""
    first, second = (
        with_properties(new, strength, set_cond_area, mask, hooks, timesteps)
        for new in (positive_NEW, negative_NEW)
    )
    return (*positive, *first), (*negative, *second)


@node(
    "ConditioningSetProperties",
    category=f"{CATEGORY}/cond single",
    module=MODULE,
    display_name="Cond Set Props",
    experimental=True,
)
def conditioning_set_properties(
    *,
    cond_NEW: Conditioning,
    strength: Strength = 1.0,
    set_cond_area: Area,
    mask: Mask | None = None,
    hooks: Hooks | None = None,
    timesteps: Range | None = None,
) -> Conditioning:
    """Hooks, a mask and a time for a conditioning."""
    return with_properties(cond_NEW, strength, set_cond_area, mask, hooks, timesteps)


@node(
    "ConditioningSetPropertiesAndCombine",
    category=f"{CATEGORY}/cond single",
    module=MODULE,
    display_name="Cond Set Props Combine",
    experimental=True,
)
def conditioning_set_properties_and_combine(
    *,
    cond: Conditioning,
    cond_NEW: Conditioning,
    strength: Strength = 1.0,
    set_cond_area: Area,
    mask: Mask | None = None,
    hooks: Hooks | None = None,
    timesteps: Range | None = None,
) -> Conditioning:
    """Hooks, a mask and a time for the new conditioning, which joins the other."""
    return (*cond, *with_properties(cond_NEW, strength, set_cond_area, mask, hooks, timesteps))


@node(
    "PairConditioningCombine",
    category=f"{CATEGORY}/cond pair",
    module=MODULE,
    display_name="Cond Pair Combine",
    outputs=PAIR,
    experimental=True,
)
def pair_conditioning_combine(
    *,
    positive_A: Conditioning,
    negative_A: Conditioning,
    positive_B: Conditioning,
    negative_B: Conditioning,
) -> tuple[Conditioning, Conditioning]:
    """Two pairs as one: each conditioning is predicted by itself and the predictions are averaged."""
    return (*positive_A, *positive_B), (*negative_A, *negative_B)


@node(
    "PairConditioningSetDefaultCombine",
    category=f"{CATEGORY}/cond pair",
    module=MODULE,
    display_name="Cond Pair Set Default Combine",
    outputs=PAIR,
    experimental=True,
)
def pair_conditioning_set_default_combine(
    *,
    positive: Conditioning,
    negative: Conditioning,
    positive_DEFAULT: Conditioning,
    negative_DEFAULT: Conditioning,
    hooks: Hooks | None = None,
) -> tuple[Conditioning, Conditioning]:
    """The default pair counts where the masks of the other leave room."""
    return (*positive, *as_default(positive_DEFAULT, hooks)), (
        *negative,
        *as_default(negative_DEFAULT, hooks),
    )


@node(
    "ConditioningSetDefaultCombine",
    category=f"{CATEGORY}/cond single",
    module=MODULE,
    display_name="Cond Set Default Combine",
    experimental=True,
)
def conditioning_set_default_combine(
    *, cond: Conditioning, cond_DEFAULT: Conditioning, hooks: Hooks | None = None
) -> Conditioning:
    """The default conditioning counts where the masks of the other leave room."""
    return (*cond, *as_default(cond_DEFAULT, hooks))


@node(
    "ConditioningTimestepsRange",
    category=CATEGORY,
    module=MODULE,
    display_name="Timesteps Range",
    outputs=("TIMESTEPS_RANGE", "BEFORE_RANGE", "AFTER_RANGE"),
    experimental=True,
)
def conditioning_timesteps_range(
    *, start_percent: Percent = 0.0, end_percent: Percent = 1.0
) -> tuple[Range, Range, Range]:
    """A part of the sampling, what is before it and what is after it."""
    return (start_percent, end_percent), (0.0, start_percent), (end_percent, 1.0)


@node(
    "SetClipHooks",
    category=f"{CATEGORY}/clip",
    module=MODULE,
    display_name="Set CLIP Hooks",
    experimental=True,
)
def set_clip_hooks(
    *,
    clip: Clip,
    apply_to_conds: bool = True,
    schedule_clip: bool = False,
    hooks: Hooks | None = None,
) -> Clip:
    """Encodes with the hooks' LoRAs; `schedule_clip`: anew for each keyframe."""
    return clip if hooks is None else clip.with_hooks(ClipHooks(hooks, apply_to_conds, schedule_clip))


@node(
    "CreateHookLora",
    category=f"{CATEGORY}/create",
    module=MODULE,
    display_name="Create Hook LoRA",
    experimental=True,
)
def create_hook_lora(
    *,
    lora_name: LoraName,
    strength_model: LoraStrength = 1.0,
    strength_clip: LoraStrength = 1.0,
    prev_hooks: Hooks | None = None,
    library: Library,
) -> Hooks:
    """A LoRA for the conditions that get the hook."""
    hooks = prev_hooks or Hooks()
    if strength_model == 0 and strength_clip == 0:
        return hooks
    lora = library.find("lora", "loras", lora_name)
    return hooks.plus(Hooks((Hook(lora, strength_model, strength_clip),)))


@node(
    "CreateHookLoraModelOnly",
    category=f"{CATEGORY}/create",
    module=MODULE,
    display_name="Create Hook LoRA (MO)",
    experimental=True,
)
def create_hook_lora_model_only(
    *,
    lora_name: LoraName,
    strength_model: LoraStrength = 1.0,
    prev_hooks: Hooks | None = None,
    library: Library,
) -> Hooks:
    """A LoRA for the conditions that get the hook, and not for the encoding of text."""
    hooks = prev_hooks or Hooks()
    if strength_model == 0:
        return hooks
    lora = library.find("lora", "loras", lora_name)
    return hooks.plus(Hooks((Hook(lora, strength_model, 0.0),)))


@node(
    "CreateHookModelAsLora",
    category=f"{CATEGORY}/create",
    module=MODULE,
    display_name="Create Hook Model as LoRA",
    experimental=True,
)
def create_hook_model_as_lora(
    *,
    ckpt_name: CheckpointName,
    strength_model: LoraStrength = 1.0,
    strength_clip: LoraStrength = 1.0,
    prev_hooks: Hooks | None = None,
    storage: Storage,
    library: Library,
) -> Hooks:
    """What sets a checkpoint apart, as a LoRA for the conditions that get the hook."""
    file = storage.file("checkpoints", ckpt_name)
    other = OtherModel(library.weights("denoiser", file), library.encoders(file))
    return (prev_hooks or Hooks()).plus(Hooks((Hook(other, strength_model, strength_clip),)))


@node(
    "CreateHookModelAsLoraModelOnly",
    category=f"{CATEGORY}/create",
    module=MODULE,
    display_name="Create Hook Model as LoRA (MO)",
    experimental=True,
)
def create_hook_model_as_lora_model_only(
    *,
    ckpt_name: CheckpointName,
    strength_model: LoraStrength = 1.0,
    prev_hooks: Hooks | None = None,
    storage: Storage,
    library: Library,
) -> Hooks:
    """The same, and not for the encoding of text."""
    other = OtherModel(library.weights("denoiser", storage.file("checkpoints", ckpt_name)), ())
    return (prev_hooks or Hooks()).plus(Hooks((Hook(other, strength_model, 0.0),)))


@node(
    "SetHookKeyframes",
    category=f"{CATEGORY}/scheduling",
    module=MODULE,
    display_name="Set Hook Keyframes",
    experimental=True,
)
def set_hook_keyframes(*, hooks: Hooks, hook_kf: Keyframes | None = None) -> Hooks:
    """The hooks with keyframes of their strength."""
    return hooks if hook_kf is None else hooks.timed(hook_kf)


@node(
    "CreateHookKeyframe",
    category=f"{CATEGORY}/scheduling",
    module=MODULE,
    display_name="Create Hook Keyframe",
    outputs=HOOK_KF,
    experimental=True,
)
def create_hook_keyframe(
    *,
    strength_mult: LoraStrength = 1.0,
    start_percent: Percent = 0.0,
    prev_hook_kf: Keyframes | None = None,
) -> Keyframes:
    """From a part of the sampling on, hooks are this strong."""
    return (prev_hook_kf or Keyframes()).plus(Keyframe(strength_mult, start_percent))


KeyframeStrength = Annotated[float, Float(0.0, 10.0, step=0.001)]


@node(
    "CreateHookKeyframesInterpolated",
    category=f"{CATEGORY}/scheduling",
    module=MODULE,
    display_name="Create Hook Keyframes Interp.",
    outputs=HOOK_KF,
    experimental=True,
)
def create_hook_keyframes_interpolated(
    *,
    strength_start: KeyframeStrength = 1.0,
    strength_end: KeyframeStrength = 1.0,
    interpolation: Annotated[str, Choice(("linear", "ease_in", "ease_out", "ease_in_out"))],
    start_percent: Percent = 0.0,
    end_percent: Percent = 1.0,
    keyframes_count: Annotated[int, Int(2, 100, step=1)] = 5,
    print_keyframes: bool = False,
    prev_hook_kf: Keyframes | None = None,
) -> Keyframes:
    """Keyframes from one strength to another."""
    strengths = spaced(strength_start, strength_end, keyframes_count, interpolation)
    return _keyframes(prev_hook_kf, strengths, (start_percent, end_percent), print_keyframes)


@node(
    "CreateHookKeyframesFromFloats",
    category=f"{CATEGORY}/scheduling",
    module=MODULE,
    display_name="Create Hook Keyframes From Floats",
    outputs=HOOK_KF,
    experimental=True,
)
def create_hook_keyframes_from_floats(
    *,
    floats_strength: Annotated[
        object, Widget({"min": -1, "step": 0.001, "forceInput": True}, type="FLOATS")
    ] = -1,
    start_percent: Percent = 0.0,
    end_percent: Percent = 1.0,
    print_keyframes: bool = False,
    prev_hook_kf: Keyframes | None = None,
) -> Keyframes:
    """Keyframes with given strengths, at equal distances."""
    if isinstance(floats_strength, int | float):
        strengths = [float(floats_strength)]
    elif isinstance(floats_strength, Iterable):
        strengths = [float(strength) for strength in floats_strength]
    else:
        kind = type(floats_strength).__name__
        raise ValueError(f"floats_strength takes a number or a list of numbers, not a {kind}.")
    return _keyframes(prev_hook_kf, strengths, (start_percent, end_percent), print_keyframes)


def spaced(first: float, last: float, count: int, method: str) -> list[float]:
    """`count` numbers from `first` to `last`."""
    return [first + (last - first) * _eased(i / max(count - 1, 1), method) for i in range(count)]


def _eased(share: float, method: str) -> float:
    """A share of the way, 0..1, bent."""
    match method:
        case "ease_in":
            return share**2
        case "ease_out":
            return 1 - (1 - share) ** 2
        case "ease_in_out":
            return (1 - math.cos(share * math.pi)) / 2
    return share


def _keyframes(
    before: Keyframes | None, strengths: list[float], part: tuple[float, float], told: bool
) -> Keyframes:
    """Those before and new ones at equal distances; the first of these stays for a step at least."""
    percents = spaced(*part, len(strengths), "linear")
    if told:
        for percent, strength in zip(percents, strengths, strict=True):
            _log.info("hook keyframe from %g on: %g", percent, strength)
    frames = [
        Keyframe(strength, percent, steps=1 if number == 0 else 0)
        for number, (percent, strength) in enumerate(zip(percents, strengths, strict=True))
    ]
    return (before or Keyframes()).plus(*frames)


@node(
    "CombineHooks2",
    category=f"{CATEGORY}/combine",
    module=MODULE,
    display_name="Combine Hooks [2]",
    experimental=True,
)
def combine_hooks_2(*, hooks_A: Hooks | None = None, hooks_B: Hooks | None = None) -> Hooks:
    """Hooks together."""
    return combined(hooks_A, hooks_B)


@node(
    "CombineHooks4",
    category=f"{CATEGORY}/combine",
    module=MODULE,
    display_name="Combine Hooks [4]",
    experimental=True,
)
def combine_hooks_4(
    *,
    hooks_A: Hooks | None = None,
    hooks_B: Hooks | None = None,
    hooks_C: Hooks | None = None,
    hooks_D: Hooks | None = None,
) -> Hooks:
    """Hooks together."""
    return combined(hooks_A, hooks_B, hooks_C, hooks_D)


@node(
    "CombineHooks8",
    category=f"{CATEGORY}/combine",
    module=MODULE,
    display_name="Combine Hooks [8]",
    experimental=True,
)
def combine_hooks_8(
    *,
    hooks_A: Hooks | None = None,
    hooks_B: Hooks | None = None,
    hooks_C: Hooks | None = None,
    hooks_D: Hooks | None = None,
    hooks_E: Hooks | None = None,
    hooks_F: Hooks | None = None,
    hooks_G: Hooks | None = None,
    hooks_H: Hooks | None = None,
) -> Hooks:
    """Hooks together."""
    return combined(hooks_A, hooks_B, hooks_C, hooks_D, hooks_E, hooks_F, hooks_G, hooks_H)


def combined(*parts: Hooks | None) -> Hooks:
    """All hooks of the parts, those that are in several once."""
    hooks = Hooks()
    for part in parts:
        hooks = hooks.plus(part)
    return hooks


def with_properties(
    conditioning: Conditioning,
    strength: float,
    area: str,
    mask: Mask | None,
    hooks: Hooks | None,
    timesteps: tuple[float, float] | None,
) -> Conditioning:
    """A conditioning with what is given of these; strength and area are the mask's."""
    made = hooked(conditioning, hooks)
    if mask is not None:
        options = {
            "mask": mask if mask.ndim >= 3 else mask.unsqueeze(0),
            "set_area_to_bounds": area != "default",
            "mask_strength": strength,
        }
        made = with_options(made, options)
    if timesteps is not None:
        made = with_options(made, {"start_percent": timesteps[0], "end_percent": timesteps[1]})
    return made


def as_default(conditioning: Conditioning, hooks: Hooks | None) -> Conditioning:
    return with_options(hooked(conditioning, hooks), {"default": True})


def hooked(conditioning: Conditioning, hooks: Hooks | None) -> Conditioning:
    """Every condition with these hooks beside those that it has."""
    if hooks is None:
        return conditioning
    made: list[Cond] = []
    for cond in conditioning:
        own = cond.options.get("hooks")
        both = own.plus(hooks) if isinstance(own, Hooks) else hooks
        made += with_options((cond,), {"hooks": both})
    return tuple(made)
