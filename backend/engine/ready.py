"""An op as the scheduler sees it: what it needs, what it costs, and whose turn it is."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from backend.components import Adapter, Adjustment, Loadable, LoraUse, Weights
from backend.graph.frontier import LiveOp
from backend.guiders import CfgGuider, Schedule
from backend.ops import Call, Denoise, EncodeText, Op
from backend.patches import BlockGuide, ModelPatch, StyleReference
from backend.references import ClipVision, ControlNet, PatchNetwork, StyleModel, UpscaleModel, Vae
from backend.schedule.fairness import Shares
from backend.schedule.pool import Order, ReadyOp
from backend.schedule.profile import Profile, Role
from backend.types import ComponentId, Seconds
from backend.values import frozen

# References whose weights an op needs on its device.
_HELD = (Vae, UpscaleModel, ClipVision, StyleModel, PatchNetwork)
STEPS = 20  # of a run whose schedule another op still has to make


@frozen
class Claim:
    """A job's place in the queue.

    order: number, then arrival. user: whose share it uses. ahead: its number puts it before jobs that came
    earlier. deadline: on the engine's clock.
    """

    order: Order
    user: str = ""
    ahead: bool = False
    deadline: Seconds | None = None


def first(claims: Iterable[Claim], shares: Shares) -> Claim:
    """The claim of the job whose turn comes first, with the earliest deadline of all."""
    every = list(claims)
    if len(every) == 1:
        return every[0]
    best = min(every, key=lambda claim: (not claim.ahead, shares.tag(claim.user), claim.order))
    deadlines = [claim.deadline for claim in every if claim.deadline is not None]
    return replace(best, deadline=min(deadlines, default=None))


def ready_op(
    live: LiveOp,
    components: tuple[ComponentId, ...],
    claim: Claim,
    path: Seconds,
    now: Seconds,
    profile: Profile,
) -> ReadyOp:
    """components: what the op needs on its device, the network that it runs first; path: `ReadyOp.path`."""
    op = live.op
    step = isinstance(op, Denoise)
    return ReadyOp(
        key=live.key,
        kind=op.kind,
        order=claim.order,
        arrived=now,
        components=components,
        batch=components[0] if step else None,
        rows=rows_of(op) if isinstance(op, Denoise) else 1,
        user=claim.user,
        ahead=claim.ahead,
        cost=cost_of(op, profile),
        path=path,
        deadline=claim.deadline,
        parts=rows_of(op) if isinstance(op, Denoise) else 1,
        adapted=isinstance(op, Denoise) and bool(op.guider.model.loras),
    )


def weights_of(op: Op[object]) -> list[Weights]:
    """The components that running an op needs on its device."""
    if isinstance(op, Call):
        return []
    if isinstance(op, Denoise):
        model = op.guider.model
        return [model.weights, *(net for patch in model.patches for net in _within(patch))]
    if isinstance(op, EncodeText):
        return list(op.clip.weights)
    sources = (getattr(op, name, None) for name in ("vae", "model", "clip_vision", "style_model"))
    return [source.weights for source in sources if isinstance(source, _HELD)]


def adapters_of(op: Op[object]) -> list[Adapter]:
    """The LoRAs that running an op needs on its device, beside these."""
    if isinstance(op, Denoise):
        return _adapters(op.guider.model.loras, (op.guider.model.weights,))
    return _adapters(op.clip.loras, op.clip.weights) if isinstance(op, EncodeText) else []


def _adapters(uses: Iterable[Adjustment], targets: Iterable[Weights]) -> list[Adapter]:
    loras = [use.weights for use in uses if isinstance(use, LoraUse)]
    return [Adapter(lora, target) for target in targets for lora in loras]


def _within(patch: ModelPatch) -> list[Weights]:
    """The networks that a patch of a model runs."""
    used: tuple[object, ...] = ()
    match patch:
        case BlockGuide(network=network, vae=vae):
            used = network, vae
        case StyleReference(network=network):
            used = (network,)
    return [source.weights for source in used if isinstance(source, _HELD)]


def rows_of(op: Denoise) -> int:
    """The rows that one image of a run adds to a pass: guidance asks for two."""
    return 2 if isinstance(op.guider, CfgGuider) and op.guider.cfg != 1 else 1


def cost_of(op: Op[object], profile: Profile, controls: Sequence[Weights] = ()) -> Seconds:
    """What an op is expected to take, alone on a device that holds its weights.

    controls: of a run's conditions.
    """
    if isinstance(op, Call):
        return profile.op(name_of_cost(op), "other", None)
    weights = weights_of(op)
    if isinstance(op, Denoise):
        return steps_of(op) * sum(profile.step(w.id, rows_of(op)) for w in (weights[0], *controls))
    if not weights:
        return profile.op(name_of_cost(op), "other", None)
    largest = max(weights, key=lambda w: profile.nbytes(w.id))
    return profile.op(name_of_cost(op), _role(largest), largest.id)


def name_of_cost(op: Op[object]) -> str:
    """What the profile knows an op's cost by: its class, with the node or the component that it uses."""
    if isinstance(op, Call):
        return f"Call {op.node}"
    weights = weights_of(op)
    return " ".join([type(op).__name__, *(w.id for w in weights)])


def steps_of(op: Denoise) -> int:
    if not isinstance(op.sigmas, Schedule):
        return STEPS
    schedule = op.sigmas
    last = schedule.steps if schedule.end is None else min(schedule.end, schedule.steps)
    return max(1, last - (schedule.start or 0))


def controls_of(op: Op[object]) -> list[Weights]:
    """ControlNets that a node puts on the conditions that it returns."""
    if not isinstance(op, Call):
        return []
    return [item.weights for items in op.inputs.values() for item in items if isinstance(item, ControlNet)]


def guess_sizes(needed: Iterable[Loadable], profile: Profile) -> None:
    """Until a component was loaded once, it is taken to be as large as its files."""
    for each in needed:
        profile.guess_size(each.id, each.size)


def _role(weights: Weights) -> Role:
    if weights.kind == "denoiser" or weights.kind == "text_encoder" or weights.kind == "vae":
        return weights.kind
    return "other"
