"""Loads ahead of need: what jobs will want, and copies of what is hot where memory is left."""

from collections.abc import Iterator
from itertools import islice

from backend.schedule.devices import LOOK, Device
from backend.schedule.placement import Holds
from backend.schedule.pool import Load
from backend.schedule.state import Pool
from backend.types import ComponentId, Seconds

_EVERY = 0.5  # seconds between two looks for what to copy
_SPARE = 0.04  # of a device's memory is left for adapters


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


def replicate(pool: Pool, now: Seconds) -> Iterator[Load]:
    """Fill memory that is left with copies of the components that save the most waiting for loads."""
    if now - pool.warmed < _EVERY:
        return
    pool.warmed = now
    hot = [(component, rate * pool.profile.load(component)) for component, rate in pool.heat.hot(now)]
    for device in pool.devices.choice(pool.devices.workers):
        if device.channel <= now and (component := _best(pool, device, hot)) is not None:
            pool.fetch(device, component, pool.profile.nbytes(component), now)
            reason = "it is used often, and there is memory for a copy"
            yield Load(component, device.id, reason, "replicate")


def _best(pool: Pool, device: Device, hot: list[tuple[ComponentId, float]]) -> ComponentId | None:
    room = device.free - _SPARE * device.capacity
    found = [
        (saved / (1 + len(pool.devices.has.get(component, ()))), component)
        for component, saved in hot
        if component not in device.held and 0 < pool.profile.nbytes(component) <= room
    ]
    return max(found)[1] if found else None
