"""Guiders: which predictions a request needs, and how they become the denoised latent.

`steer` is a generator of rounds: it yields what it asks of the model, is sent the estimates in that order,
and returns the result. A guidance that looks at one estimate before it asks for the next takes two rounds.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor

from backend.errors import UnsupportedOption
from backend.guiders import (
    BasicGuider,
    CfgGuider,
    DualCfgGuider,
    ForeignGuider,
    Guider,
    PerpNegGuider,
)
from backend.patches import (
    NO_BLOCKS,
    Blocks,
    ModelPatch,
    PerpNegative,
    PerturbedAttention,
    SelfAttention,
    SkipLayers,
    SkipLayersInNegative,
    Timed,
)
from backend.sampling.discretization import NoiseRange
from backend.sampling.foreign import codes_of
from backend.sampling.guidance import (
    blurred_where_seen,
    cfg,
    deviation_rescaled,
    needs_uncond,
    perp_neg,
)
from backend.sampling.request import DenoiseRequest
from backend.sampling.stages import RULES, Memory, Rule, Seen, after, before, guided, instead
from backend.types import Cond
from backend.values import frozen

_LEAST_TO_BLUR = 4  # latent pixels: what is no larger has no room for the blur's margin
EMPTY = "empty"  # the side of perp-neg's third condition


@frozen(eq=False)
class Ask:
    """A prediction under one side of the guider's conditions.

    side: its name in `conditions_of`; x: what is to be denoised, None: the request's own; perturbed: without
    self-attention in the middle block; without: transformer blocks that are left out; watched: tell what the
    middle block's attention looked at; beside: it is none of the predictions that guidance starts from.
    """

    side: str
    x: Tensor | None = None
    perturbed: bool = False
    without: Blocks = NO_BLOCKS
    watched: bool = False
    beside: bool = False


@frozen(eq=False)
class Estimate:
    """denoised as x; attention [B, n] where it was asked for: what each place got from all others."""

    denoised: Tensor
    attention: Tensor | None = None


@frozen(eq=False)
class Guided:
    """The answer to a request. uncond: the estimate that was guided away from; zeros where there is none."""

    denoised: Tensor
    uncond: Tensor


Conditions: TypeAlias = Sequence[Cond]
Steering: TypeAlias = Generator[tuple[Ask, ...], Sequence[Estimate], Guided]


@frozen
class _Plan:
    """The guidance that patches of the model take part in: from side `away` to side `to`, by `scale`.

    sides: all that are asked for.
    """

    to: str
    away: str
    scale: float
    sides: tuple[str, ...]


def steer(guider: Guider, request: DenoiseRequest, noise: NoiseRange, memory: Memory) -> Steering:
    """Answer one request. noise: the model's range; memory: of the run.

    Raises: UnsupportedOption where a patch of the model needs a negative side and the guider has none.
    """
    patches = guider.model.patches
    seeing = any(isinstance(patch, SelfAttention) for patch in patches)
    whole = any(code.whole for code in codes_of(patches))
    plan = _plan(guider, forced=request.uncond or seeing or whole)
    if seeing and plan.away not in plan.sides:
        remedy = "Use a guider with a negative conditioning, or leave SelfAttentionGuidance out."
        raise UnsupportedOption("guider", type(guider).__name__, remedy)
    rule = None if isinstance(guider, PerpNegGuider) else _rule(patches)
    asks = {side: Ask(side, watched=seeing and side == plan.away) for side in plan.sides}
    if plan.away in asks and isinstance(guider, CfgGuider):
        asks[plan.away] = replace(asks[plan.away], without=_left_out(patches, request, noise))
    if isinstance(rule, PerpNegative):
        asks[EMPTY] = Ask(EMPTY, beside=True)
    further = {
        place: ask for place, patch in enumerate(patches) if (ask := _ask(patch, plan, request, noise))
    }
    replies = yield (*asks.values(), *further.values())
    seen = {side: reply.denoised for side, reply in zip(asks, replies, strict=False)}
    worse = dict(zip(further, replies[len(asks) :], strict=True))
    result, away, facts = _guided(guider, plan, rule, request, seen, memory)
    for place, patch in enumerate(patches):
        if place in worse:
            result = _from_worse(patch, result, facts.cond, worse[place].denoised)
        elif isinstance(patch, SelfAttention):
            attention = replies[list(asks).index(plan.away)].attention
            result = result + (yield from _looked_away(patch, plan.away, request, away, attention))
        else:
            result = after(patch, result, facts)
    return Guided(_outer(guider, result, seen, torch.zeros_like(request.x)), away)


def _guided(
    guider: Guider,
    plan: _Plan,
    rule: Rule | None,
    request: DenoiseRequest,
    seen: Mapping[str, Tensor],
    memory: Memory,
) -> tuple[Tensor, Tensor, Seen]:
    """The guidance between the plan's two sides, the prediction it leads away from, what it was made of."""
    nothing = torch.zeros_like(request.x)
    three = isinstance(guider, PerpNegGuider)
    facts = Seen(
        request.x,
        request.sigma,
        plan.scale,
        seen.get(plan.to, nothing),
        seen.get(plan.away, nothing),
        plan.away in seen,
        seen.get(EMPTY, nothing) if three else None,
        memory.host,
    )
    if not isinstance(guider, DualCfgGuider):
        for place, patch in enumerate(guider.model.patches):
            cond, uncond = before(patch, place, facts, memory)
            facts = replace(facts, cond=cond, uncond=uncond)
    if isinstance(guider, PerpNegGuider):
        empty = seen.get(EMPTY, nothing)
        result = perp_neg(facts.cond, facts.uncond, empty, guider.neg_scale, guider.cfg)
    elif (made := instead(guider.model.patches, facts)) is not None:
        result = made
    else:
        result = guided(rule, replace(facts, empty=seen.get(EMPTY)))
    return result, facts.uncond, facts


def settled(answer: Guided) -> Steering:
    """An answer that needs no prediction."""
    yield ()
    return answer


def conditions_of(guider: Guider) -> dict[str, Conditions]:
    """The conditionings that a guider's predictions are made under, by side."""
    if isinstance(guider, ForeignGuider):
        return dict(guider.sides)
    found: dict[str, Conditions] = {side: getattr(guider, side) for side in sides_of(guider)}
    rule = _rule(guider.model.patches)
    if isinstance(rule, PerpNegative) and EMPTY not in found:
        found[EMPTY] = rule.empty  # type: ignore[assignment]  # its refs are values by now
    return found


def sides_of(guider: Guider) -> tuple[str, ...]:
    """The fields of a guider that hold conditionings, in the order in which ComfyUI goes through them."""
    match guider:
        case BasicGuider():
            return ("positive",)
        case CfgGuider():
            return ("positive", "negative")
        case DualCfgGuider():
            return ("positive", "middle", "negative")
        case PerpNegGuider():
            return ("positive", EMPTY, "negative")
        case ForeignGuider(sides=sides):
            return tuple(name for name, _ in sides)


def stand_in(guider: Guider) -> Guider:
    """For a node pack's guider: the one that does what it does where it overrides nothing."""
    if not isinstance(guider, ForeignGuider):
        return guider
    sides = dict(guider.sides)
    positive = sides.get("positive", ())
    if "negative" in sides:
        return CfgGuider(guider.model, positive, sides["negative"], guider.cfg)
    return BasicGuider(guider.model, positive)


def _plan(guider: Guider, forced: bool) -> _Plan:
    """forced: the side that is guided away from is computed even where it has no part in the result."""
    match guider:
        case BasicGuider():
            return _Plan("positive", "negative", 1.0, ("positive",))
        case CfgGuider(cfg=scale):
            both = needs_uncond(scale, forced)
            return _Plan("positive", "negative", scale, ("positive", "negative") if both else ("positive",))
        case DualCfgGuider(cfg=scale, nested=True):
            return _Plan("positive", "middle", scale, ("positive", "middle", "negative"))
        case DualCfgGuider(cfg=scale, middle_cfg=middle):
            if needs_uncond(middle, forced):
                return _Plan("middle", "negative", middle, ("positive", "middle", "negative"))
            sides = ("positive", "middle") if needs_uncond(scale) else ("positive",)
            return _Plan("middle", "negative", middle, sides)
        case ForeignGuider():
            raise TypeError("a node pack's guider is steered by its `stand_in`")
        case PerpNegGuider(cfg=scale, neg_scale=away):
            if forced or away != 0:
                return _Plan("positive", "negative", scale, ("positive", "negative", "empty"))
            sides = ("positive", "empty") if needs_uncond(scale) else ("positive",)
            return _Plan("positive", "negative", scale, sides)


def _rule(patches: Sequence[ModelPatch]) -> Rule | None:
    return next((patch for patch in reversed(patches) if isinstance(patch, RULES)), None)


def in_force(patch: Timed, sigma: float, noise: NoiseRange) -> bool:
    """The noise level lies between a patch's start and end. noise: the run's range."""
    begins, ends = patch.sigmas or (noise.percent_to_sigma(patch.start), noise.percent_to_sigma(patch.end))
    return ends <= sigma <= begins


def _left_out(patches: Sequence[ModelPatch], request: DenoiseRequest, noise: NoiseRange) -> Blocks:
    """The blocks that the negative prediction is made without: the last patch of this kind decides."""
    last = next((patch for patch in reversed(patches) if isinstance(patch, SkipLayersInNegative)), None)
    return last.blocks if last is not None and in_force(last, float(request.sigma), noise) else NO_BLOCKS


def _ask(patch: ModelPatch, plan: _Plan, request: DenoiseRequest, noise: NoiseRange) -> Ask | None:
    """The worse prediction that a patch guides away from, if it does so by one at this noise level."""
    match patch:
        case PerturbedAttention(scale) if scale != 0:
            return Ask(plan.to, perturbed=True, beside=True)
        case SkipLayers(blocks, scale) if scale > 0 and in_force(patch, float(request.sigma), noise):
            return Ask(plan.to, without=blocks, beside=True)
    return None


def _from_worse(patch: ModelPatch, result: Tensor, cond: Tensor, worse: Tensor) -> Tensor:
    match patch:
        case PerturbedAttention(scale):
            return result + (cond - worse) * scale
        case SkipLayers(scale=scale, rescale=rescale):
            result = result + (cond - worse) * scale
            return deviation_rescaled(result, cond, rescale) if rescale != 0 else result
    return result


def _outer(guider: Guider, guided: Tensor, sides: Mapping[str, Tensor], nothing: Tensor) -> Tensor:
    """What a guider of three sides makes of the guidance between two of them."""
    match guider:
        case DualCfgGuider(nested=True):
            return cfg(guided, sides["negative"], guider.middle_cfg)
        case DualCfgGuider():
            return guided + (sides["positive"] - sides.get("middle", nothing)) * guider.cfg
    return guided


def _looked_away(
    patch: SelfAttention, side: str, request: DenoiseRequest, away: Tensor, attention: Tensor | None
) -> Generator[tuple[Ask, ...], Sequence[Estimate], Tensor]:
    """What self-attention guidance adds. away: the prediction on that side."""
    if min(request.x.shape[2:]) <= _LEAST_TO_BLUR or attention is None:
        return torch.zeros_like(request.x)
    degraded = blurred_where_seen(away, attention, patch.blur)
    (worse,) = yield (Ask(side, x=degraded + request.x - away, beside=True),)
    return (degraded - worse.denoised) * patch.scale
