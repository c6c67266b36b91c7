"""Which waiting ops share the forward passes of a batch that starts."""

from collections.abc import Iterator

from backend.schedule.devices import Device
from backend.schedule.placement import Holds, joins
from backend.schedule.pool import ReadyOp
from backend.schedule.state import Pool
from backend.types import Seconds


def mates(pool: Pool, device: Device, batch: str, holds: Holds, now: Seconds) -> Iterator[ReadyOp]:
    """The ops that join the batch on a device, fairest first, as long as that pays.

    Start each before you ask for the next.

    They come before ops of other denoisers that are due earlier: sharing a pass delays those less than a pass
    of their own would later. But no job overtakes an older one of its own user.
    """
    out: set[object] = set()
    while True:
        lanes = pool.queue.batches.get(batch, {})
        best = pool.queue.best
        free = [(best(lane), i, name) for i, (name, lane) in enumerate(lanes.items()) if name not in out]
        if not free:
            return
        _, _, name = min(free)
        op = pool.queue.head(lanes[name])
        here = op.home in (None, device.id)
        if here and not op.alone and joins(pool, op, device, holds, now) and not pool.queue.precedes(op):
            yield op
        else:
            out.add(name)
