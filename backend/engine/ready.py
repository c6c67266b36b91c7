"""An op as the scheduler sees it."""

from backend.graph.frontier import LiveOp
from backend.ops import Denoise, Op
from backend.references import CfgGuider, Weights
from backend.schedule.pool import ReadyOp
from backend.types import Seconds


def ready_op(live: LiveOp, order: tuple[float, int], now: Seconds, serial: bool) -> ReadyOp:
    """order: the place in the queue of the first job that wants it. serial: third-party code."""
    weights = tuple(w.id for w in weights_of(live.op))
    if isinstance(live.op, Denoise):
        guider = live.op.guider
        rows = 2 if isinstance(guider, CfgGuider) and guider.cfg != 1 else 1
        return ReadyOp(live.key, "step", order, now, weights, batch=weights[0], rows=rows)
    return ReadyOp(live.key, live.op.kind, order, now, weights, serial=serial)


def weights_of(op: Op[object]) -> list[Weights]:
    """The components that running an op needs on its device."""
    if isinstance(op, Denoise):
        return [op.guider.model.weights]
    sources = [getattr(op, name, None) for name in ("clip", "vae")]
    return [source.weights for source in sources if source is not None]
