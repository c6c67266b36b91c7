"""Guiders: which predictions a request needs, and how they become the denoised latent.

`steer` is a generator of rounds: it yields what it asks of the model, is sent the estimates in that order,
and returns the result. A guidance that looks at one estimate before it asks for the next takes two rounds.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from backend.errors import UnsupportedOption
from backend.patches import ModelPatch, PerturbedAttention, RescaleCfg, SelfAttention
from backend.references import BasicGuider, CfgGuider, DualCfgGuider, Guider, PerpNegGuider
from backend.sampling.guidance import (
    blurred_where_seen,
    cfg,
    needs_uncond,
    perp_neg,
    rescaled_cfg,
)
from backend.sampling.request import DenoiseRequest

_LEAST_TO_BLUR = 4  # latent pixels: what is no larger has no room for the blur's margin


@dataclass(frozen=True, slots=True, eq=False)
class Ask:
    """A prediction under one side of the guider's conditions.

    side: the guider's field that holds them; x: what is to be denoised, None: the request's own; perturbed:
    without self-attention in the middle block; watched: tell what that attention looked at.
    """

    side: str
    x: Tensor | None = None
    perturbed: bool = False
    watched: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """denoised as x; attention [B, n] where it was asked for: what each place got from all others."""

    denoised: Tensor
    attention: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Guided:
    """The answer to a request. uncond: the estimate that was guided away from; zeros where there is none."""

    denoised: Tensor
    uncond: Tensor


Steering: TypeAlias = Generator[tuple[Ask, ...], Sequence[Estimate], Guided]


@dataclass(frozen=True, slots=True)
class _Plan:
    """The guidance that patches of the model take part in: from side `away` to side `to`, by `scale`.

    sides: all that are asked for.
    """

    to: str
    away: str
    scale: float
    sides: tuple[str, ...]


def steer(guider: Guider, request: DenoiseRequest) -> Steering:
    """Answer one request.

    Raises: UnsupportedOption where a patch of the model needs a negative side and the guider has none.
    """
    patches = guider.model.patches
    seeing = any(isinstance(patch, SelfAttention) for patch in patches)
    perturbing = any(isinstance(patch, PerturbedAttention) and patch.scale != 0 for patch in patches)
    plan = _plan(guider, forced=request.uncond or seeing)
    if seeing and plan.away not in plan.sides:
        remedy = "Use a guider with a negative conditioning, or leave SelfAttentionGuidance out."
        raise UnsupportedOption("guider", type(guider).__name__, remedy)
    asks = [Ask(side, watched=seeing and side == plan.away) for side in plan.sides]
    if perturbing:
        asks.append(Ask(plan.to, perturbed=True))
    replies = yield tuple(asks)
    seen = dict(zip(plan.sides, replies, strict=False))
    nothing = Estimate(torch.zeros_like(request.x))
    to, away = seen.get(plan.to, nothing), seen.get(plan.away, nothing)
    guided = _inner(guider, plan, request, {side: reply.denoised for side, reply in seen.items()})
    for patch in patches:
        match patch:
            case PerturbedAttention(scale=scale) if scale != 0:
                guided = guided + (to.denoised - replies[-1].denoised) * scale
            case SelfAttention():
                guided = guided + (yield from _looked_away(patch, plan.away, request, away))
    sides = {side: reply.denoised for side, reply in seen.items()}
    return Guided(_outer(guider, guided, sides, nothing.denoised), away.denoised)


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
            return ("positive", "empty", "negative")


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
        case PerpNegGuider(cfg=scale, neg_scale=away):
            if forced or away != 0:
                return _Plan("positive", "negative", scale, ("positive", "negative", "empty"))
            sides = ("positive", "empty") if needs_uncond(scale) else ("positive",)
            return _Plan("positive", "negative", scale, sides)


def _inner(guider: Guider, plan: _Plan, request: DenoiseRequest, sides: dict[str, Tensor]) -> Tensor:
    """The guidance between the plan's two sides."""
    nothing = torch.zeros_like(request.x)
    if isinstance(guider, PerpNegGuider):
        positive, negative, empty = (sides.get(side, nothing) for side in ("positive", "negative", "empty"))
        return perp_neg(positive, negative, empty, guider.neg_scale, guider.cfg)
    to, away = sides.get(plan.to, nothing), sides.get(plan.away, nothing)
    if (rescale := _last(guider.model.patches)) is not None:
        sigma = request.sigma.to(request.x)
        return rescaled_cfg(to, away, plan.scale, request.x, sigma, rescale.multiplier)
    return cfg(to, away, plan.scale) if plan.away in sides else to


def _outer(guider: Guider, guided: Tensor, sides: dict[str, Tensor], nothing: Tensor) -> Tensor:
    """What a guider of three sides makes of the guidance between two of them."""
    match guider:
        case DualCfgGuider(nested=True):
            return cfg(guided, sides["negative"], guider.middle_cfg)
        case DualCfgGuider():
            return guided + (sides["positive"] - sides.get("middle", nothing)) * guider.cfg
    return guided


def _looked_away(
    patch: SelfAttention, side: str, request: DenoiseRequest, away: Estimate
) -> Generator[tuple[Ask, ...], Sequence[Estimate], Tensor]:
    """What self-attention guidance adds."""
    if min(request.x.shape[2:]) <= _LEAST_TO_BLUR or away.attention is None:
        return torch.zeros_like(request.x)
    degraded = blurred_where_seen(away.denoised, away.attention, patch.blur)
    (worse,) = yield (Ask(side, x=degraded + request.x - away.denoised),)
    return (degraded - worse.denoised) * patch.scale


def _last(patches: Sequence[ModelPatch]) -> RescaleCfg | None:
    return next((patch for patch in reversed(patches) if isinstance(patch, RescaleCfg)), None)
