"""Hooks, masks and times of one conditioning or of a pair, and defaults for where masks leave room."""

from typing import Annotated

from backend.node import Choice, Float
from backend.references import Hooks
from backend.types import Cond, Conditioning, Mask, Wire
from nodes.conditioning import Strength, with_options
from nodes.hooks import CATEGORY, hook_node

PAIR = ("positive", "negative")
Percent = Annotated[float, Float(0.0, 1.0, step=0.001)]
Area = Annotated[str, Choice(("default", "mask bounds"))]
Range = Annotated[tuple[float, float], Wire("TIMESTEPS_RANGE")]


@hook_node(
    "PairConditioningSetProperties",
    category=f"{CATEGORY}/cond pair",
    display_name="Cond Pair Set Props",
    outputs=PAIR,
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


@hook_node(
    "PairConditioningSetPropertiesAndCombine",
    category=f"{CATEGORY}/cond pair",
    display_name="Cond Pair Set Props Combine",
    outputs=PAIR,
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


@hook_node("ConditioningSetProperties", category=f"{CATEGORY}/cond single", display_name="Cond Set Props")
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


@hook_node(
    "ConditioningSetPropertiesAndCombine",
    category=f"{CATEGORY}/cond single",
    display_name="Cond Set Props Combine",
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


@hook_node(
    "PairConditioningCombine",
    category=f"{CATEGORY}/cond pair",
    display_name="Cond Pair Combine",
    outputs=PAIR,
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


@hook_node(
    "PairConditioningSetDefaultCombine",
    category=f"{CATEGORY}/cond pair",
    display_name="Cond Pair Set Default Combine",
    outputs=PAIR,
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


@hook_node(
    "ConditioningSetDefaultCombine",
    category=f"{CATEGORY}/cond single",
    display_name="Cond Set Default Combine",
)
def conditioning_set_default_combine(
    *, cond: Conditioning, cond_DEFAULT: Conditioning, hooks: Hooks | None = None
) -> Conditioning:
    """The default conditioning counts where the masks of the other leave room."""
    return (*cond, *as_default(cond_DEFAULT, hooks))


@hook_node(
    "ConditioningTimestepsRange",
    category=CATEGORY,
    display_name="Timesteps Range",
    outputs=("TIMESTEPS_RANGE", "BEFORE_RANGE", "AFTER_RANGE"),
)
def conditioning_timesteps_range(
    *, start_percent: Percent = 0.0, end_percent: Percent = 1.0
) -> tuple[Range, Range, Range]:
    """A part of the sampling, what is before it and what is after it."""
    return (start_percent, end_percent), (0.0, start_percent), (end_percent, 1.0)


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
