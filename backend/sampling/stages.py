"""What patches of a model do to guidance: before it, in its place, and after it.

Each is a function of the patch and of what was predicted. Those before and after run in the order in which
they are on the model; of those in its place the last counts. `steer.py` gets the predictions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from torch import Tensor

from backend.patches import (
    CfgNorm,
    CfgZeroStar,
    EpsilonScale,
    Foreign,
    FrequencyGuidance,
    GuidanceOperation,
    Mahiro,
    ModelPatch,
    PerpNegative,
    ProjectedGuidance,
    RenormCfg,
    RescaleCfg,
    RowScales,
    TangentialDamping,
)
from backend.sampling.foreign import Host, View, code_of, codes_of
from backend.sampling.guidance import (
    cfg,
    frequencies_scaled,
    length_limited,
    mahiro,
    perp_neg,
    projected,
    renormed_cfg,
    rescaled_cfg,
    row_scales,
    tangentially_damped,
    zero_star,
)
from backend.sampling.operation import operated
from backend.values import frozen


@dataclass(slots=True, eq=False)
class Memory:
    """What guidance keeps of a run from one request to the next.

    momenta: of each `ProjectedGuidance`, by its place among the patches: the last sigma and the running sum.
    host: the run itself, for functions of node packs.
    """

    momenta: dict[int, tuple[float, Tensor]] = field(default_factory=dict)
    host: Host | None = None


@frozen(eq=False)
class Seen:
    """What there is to guide by: x, its noise level (0-dim) and the predictions, all [B, ...].

    uncond: zeros where `both` is false: none was asked for. empty: the third prediction, of perp-neg.
    """

    x: Tensor
    sigma: Tensor
    scale: float
    cond: Tensor
    uncond: Tensor
    both: bool
    empty: Tensor | None = None
    host: Host | None = None  # the run itself, for functions of node packs

    @property
    def view(self) -> View:
        """The same for functions of node packs."""
        return View(self.x, self.sigma, self.scale, self.cond, self.uncond, self.both, self.host)


Pair: TypeAlias = tuple[Tensor, Tensor]


def before(patch: ModelPatch, place: int, seen: Seen, memory: Memory) -> Pair:
    """The positive and negative prediction that are guided by, in place of those seen.

    place: of the patch on the model. Patches of other kinds change nothing.
    """
    match patch:
        case Foreign():
            return code_of(patch).before(seen.view)
        case ProjectedGuidance():
            return _projected(patch, place, seen, memory), seen.uncond
        case TangentialDamping() if seen.both:
            return seen.cond, seen.x - tangentially_damped(seen.x - seen.cond, seen.x - seen.uncond)
        case FrequencyGuidance(low, high, cutoff) if seen.both:
            scaled = frequencies_scaled(seen.cond - seen.uncond, low, high, cutoff)
            return scaled + seen.uncond, seen.uncond
        case GuidanceOperation(operation) if seen.empty is not None:
            return operated(operation, seen.cond), seen.uncond
        case GuidanceOperation(operation):
            return operated(operation, seen.cond - seen.uncond) + seen.uncond, seen.uncond
    return seen.cond, seen.uncond


def _projected(patch: ProjectedGuidance, place: int, seen: Seen, memory: Memory) -> Tensor:
    guidance, sigma = seen.cond - seen.uncond, float(seen.sigma)
    past = memory.momenta.get(place)
    if patch.momentum != 0:
        if past is not None and sigma <= past[0]:
            guidance = patch.momentum * past[1] + guidance
        memory.momenta[place] = sigma, guidance
    changed = projected(guidance, seen.cond, patch.eta, patch.threshold)
    return seen.uncond + changed + (seen.cond - seen.uncond) / seen.scale


def _rescaled(patch: RescaleCfg, seen: Seen) -> Tensor:
    sigma = seen.sigma.to(seen.x)
    return rescaled_cfg(seen.cond, seen.uncond, seen.scale, seen.x, sigma, patch.multiplier)


def _renormed(patch: RenormCfg, seen: Seen) -> Tensor:
    if float(seen.sigma) >= patch.below:
        return seen.cond
    return renormed_cfg(seen.cond, seen.uncond, seen.scale, patch.limit)


def _by_row(patch: RowScales, seen: Seen) -> Tensor:
    scales = row_scales(len(seen.x), patch.least, seen.scale, patch.shape == "triangle").to(seen.x)
    difference = seen.cond - seen.uncond
    return seen.uncond + scales.reshape(-1, *[1] * (seen.x.ndim - 1)) * difference


def _perp_negative(patch: PerpNegative, seen: Seen) -> Tensor:
    assert seen.empty is not None
    return perp_neg(seen.cond, seen.uncond, seen.empty, patch.scale, seen.scale)


Rule: TypeAlias = RescaleCfg | RenormCfg | RowScales | PerpNegative
RULES = (RescaleCfg, RenormCfg, RowScales, PerpNegative)


def guided(rule: Rule | None, seen: Seen) -> Tensor:
    """The guided prediction: by plain guidance, or by the rule in its place."""
    match rule:
        case RescaleCfg():
            return _rescaled(rule, seen)
        case RenormCfg():
            return _renormed(rule, seen)
        case RowScales():
            return _by_row(rule, seen)
        case PerpNegative():
            return _perp_negative(rule, seen)
        case None:
            return cfg(seen.cond, seen.uncond, seen.scale) if seen.both else seen.cond


def instead(patches: Sequence[ModelPatch], seen: Seen) -> Tensor | None:
    """The guided prediction by a node pack's own function; None where there is none."""
    made = None
    for code in codes_of(patches):
        made = code.instead(seen.view)
    return made


def after(patch: ModelPatch, result: Tensor, seen: Seen) -> Tensor:
    """The guided prediction after a patch that needs no further one. Other patches change nothing."""
    match patch:
        case Foreign():
            return code_of(patch).after(result, seen.view)
        case CfgNorm(strength):
            return length_limited(result, seen.cond, strength)
        case CfgZeroStar():
            return zero_star(result, seen.cond, seen.uncond, seen.x, seen.scale)
        case Mahiro():
            return mahiro(result, seen.cond, seen.uncond, seen.scale)
        case EpsilonScale(factor):
            return seen.x - (seen.x - result) / (factor or 1e-9)
    return result
