"""Loads ahead of need: what jobs will want."""

from collections.abc import Iterator
from itertools import islice

from backend.schedule.devices import LOOK
from backend.schedule.placement import Holds
from backend.schedule.pool import Load
from backend.schedule.state import Pool
from backend.types import Seconds


def prefetch(pool: Pool, holds: Holds, now: Seconds) -> Iterator[Load]:
    """Bring what jobs will need, and no device has, to devices that have nothing to do and the memory to
    spare.
    """
    for component in list(islice(pool.cold, LOOK)):
        nbytes = pool.profile.nbytes(component)
        idle = [
            d
            for d in pool.devices.choice(pool.devices.idle)
            if not d.running and not d.paused and d.free >= nbytes and not holds.get(d.id)
        ]
        if not idle or not nbytes:
            continue
        best = min(idle, key=lambda d: (-d.free, d.id))
        pool.fetch(best, component, nbytes, now)
        yield Load(component, best.id, "a job will need it, and the device has nothing to do")
