"""Keyframes: how strong hooks are in the course of the sampling."""

import logging
import math
from collections.abc import Iterable
from typing import Annotated

from backend.node import Choice, Float, Int, Widget
from backend.references import Hooks, Keyframe, Keyframes
from nodes.condition_properties import Percent
from nodes.hooks import CATEGORY, LoraStrength, hook_node

HOOK_KF = ("HOOK_KF",)
KeyframeStrength = Annotated[float, Float(0.0, 10.0, step=0.001)]
_log = logging.getLogger(__name__)


@hook_node("SetHookKeyframes", category=f"{CATEGORY}/scheduling", display_name="Set Hook Keyframes")
def set_hook_keyframes(*, hooks: Hooks, hook_kf: Keyframes | None = None) -> Hooks:
    """The hooks with keyframes of their strength."""
    return hooks if hook_kf is None else hooks.timed(hook_kf)


@hook_node(
    "CreateHookKeyframe",
    category=f"{CATEGORY}/scheduling",
    display_name="Create Hook Keyframe",
    outputs=HOOK_KF,
)
def create_hook_keyframe(
    *,
    strength_mult: LoraStrength = 1.0,
    start_percent: Percent = 0.0,
    prev_hook_kf: Keyframes | None = None,
) -> Keyframes:
    """From a part of the sampling on, hooks are this strong."""
    return (prev_hook_kf or Keyframes()).plus(Keyframe(strength_mult, start_percent))


@hook_node(
    "CreateHookKeyframesInterpolated",
    category=f"{CATEGORY}/scheduling",
    display_name="Create Hook Keyframes Interp.",
    outputs=HOOK_KF,
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


@hook_node(
    "CreateHookKeyframesFromFloats",
    category=f"{CATEGORY}/scheduling",
    display_name="Create Hook Keyframes From Floats",
    outputs=HOOK_KF,
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
