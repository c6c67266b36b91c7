"""LoRAs merged into a copy of the weights that is a run's own, where that costs less than LoRAs beside them.

A copy serves a run that is alone in its passes, and goes with it. In a pass with rows of other LoRAs all
stand beside the weights, as ever.
"""

from backend.schedule.devices import Device
from backend.schedule.memory import room
from backend.schedule.pool import ReadyOp
from backend.schedule.state import Pool
from backend.types import ComponentId, Seconds


def victims(pool: Pool, op: ReadyOp, device: Device, now: Seconds) -> list[ComponentId] | None:
    """What must go so that a run that starts gets such a copy; None where it gets none.

    Loading what went again, if anyone needs it, must not cost more than the copy saves.
    """
    if not pool.rules.merge or not op.adapted or device.stepping:
        return None
    base = op.components[0]
    saved = pool.profile.beside(base) * op.cost - pool.profile.merging(base)
    if saved <= 0:
        return None
    need = sum(pool.profile.nbytes(c) for c in device.missing(op.components)) + pool.profile.nbytes(base)
    found = room(device, need, op.components, pool.worth(now))
    if found is None or sum(map(pool.profile.load, found)) > saved:
        return None
    return found
