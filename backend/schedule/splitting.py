"""Adaptive parallelism: devices with nothing to do compute parts of the passes that others run.

Guidance's halves, and the images of a batch, are rows that know nothing of each other: dealt to several
devices they end sooner, and on large denoisers cost no more. What ControlNets add is not needed before a UNet
has come to its middle: another device may compute it meanwhile. A helper is lent: what needs its device takes
it back at the next step boundary; where ops with deadlines come, none is lent for passes that such ops can't
wait for. One without the weights gets them where nobody else wants a device, and what the split will save is
more than the loading takes.
"""

from collections.abc import Iterator
from itertools import islice
from math import ceil

from backend.schedule.crowding import remaining, steps
from backend.schedule.devices import LOOK, Device, Running
from backend.schedule.placement import Holds, loading
from backend.schedule.pool import Load, Split, Unsplit
from backend.schedule.profile import HANDOVER
from backend.schedule.state import Pool
from backend.types import ComponentId, OpKey, Seconds

_WORTH = 0.95  # a further helper must save a twentieth of a pass
_LEAST = 2  # passes that must be left for a split to be worth its messages
_HASTE = 0.1  # of what hurried ops have to spare: helpers are kept from them by no longer pass
_EARLY = 0.32  # of a UNet's pass, before it asks for what ControlNets add: docs/splitting.md


def lend(pool: Pool, holds: Holds, now: Seconds) -> Iterator[Split | Load]:
    """Give unused devices to the runs that have longest to go, one helper after the other."""
    if not pool.devices.unused or not pool.devices.dealt:
        return
    gains = [found for key in islice(pool.devices.dealt, LOOK) if (found := _run_of(pool, key, now))]
    for _, _, device, running in sorted(gains, key=lambda g: g[:2]):
        op = running.op
        free = _helpers(pool, op.components, holds, now)
        for helper in free[: _gain(pool, running, len(free))]:
            pool.devices.help(helper, running)
            count = len(running.helpers) + 1
            reason = f"it holds the weights and has nothing to do: each pass is dealt to {count} devices"
            yield Split(op.key, device.id, helper.id, reason)
        yield from _aside(pool, device, running, holds, now)
    if not pool.queue.lanes and not pool.cold and not holds:
        for _, _, device, running in sorted(gains, key=lambda g: g[:2]):
            yield from _equip(pool, device, running, now)


def _equip(pool: Pool, device: Device, running: Running, now: Seconds) -> Iterator[Load]:
    """Bring a run's weights to a further device that has nothing to do, where that pays within the run."""
    components = running.op.components
    there = pool.devices.holding(components[0], pool.devices.unused)
    share = _pass(pool, running, 1) / max(1e-9, _pass(pool, running, 0))
    if len(running.helpers) + 1 >= running.op.parts or share > _WORTH or any(d.helps is None for d in there):
        return  # dealt as far as it goes, or the next helper is on its way
    left, best = remaining(pool, device, running, now), None
    for helper in pool.devices.choice(pool.devices.unused):
        missing = helper.missing(components)
        load, nbytes = loading(pool, missing), sum(map(pool.profile.nbytes, missing))
        pays = (left - load) * (1 - share) > load and helper.channel <= now
        if pays and 0 < nbytes <= helper.free and not helper.paused and (best is None or load < best[0]):
            best = load, helper, missing
    if best is None:
        return
    load, helper, missing = best
    for component in missing:
        pool.fetch(helper, component, pool.profile.nbytes(component), now)
        reason = f"a run of {left:.3g} s will be split with it, and loading takes {load:.3g} s"
        yield Load(component, helper.id, reason, "replicate")


def _aside(
    pool: Pool, device: Device, running: Running, holds: Holds, now: Seconds
) -> Iterator[Split | Load]:
    """Have another device ask a run's ControlNets, one that holds them, or will if that is worth it."""
    op, saved = running.op, _saved(pool, running)
    if not saved:
        return
    for helper in _helpers(pool, op.controls, holds, now)[:1]:
        pool.devices.help(helper, running, "controls")
        reason = "it holds the ControlNets and has nothing to do: it asks them while a pass begins"
        yield Split(op.key, device.id, helper.id, reason, "controls")
        return
    if pool.queue.lanes or pool.cold or holds or len(running.helpers) + 1 < op.parts:
        return  # whole calls would be dealt out first
    unused = pool.devices.choice(pool.devices.unused)
    passes = remaining(pool, device, running, now) / max(1e-9, _pass(pool, running, 0))
    if any(not d.missing(op.controls) for d in unused) or saved * passes <= loading(pool, op.controls):
        return  # it is on its way, or comes too late
    roomy = [d for d in unused if d.free >= sum(map(pool.profile.nbytes, d.missing(op.controls)))]
    for helper in sorted(roomy, key=lambda d: (len(d.missing(op.controls)), d.channel, d.id))[:1]:
        for component in helper.missing(op.controls):
            pool.fetch(helper, component, pool.profile.nbytes(component), now)
            reason = "a run is over sooner with its ControlNets here too, and the device has nothing to do"
            yield Load(component, helper.id, reason, "replicate")


def release(pool: Pool, helper: Device, reason: str) -> Iterator[Unsplit]:
    """Take a device back from what it helps with, where it does."""
    running = pool.devices.unhelp(helper)
    if running is not None:
        lead = pool.where(running.op.key)
        pool.free_in.pop(lead, None)
        yield Unsplit(running.op.key, lead, helper.id, reason)


def reunite(pool: Pool, device: Device, reason: str) -> Iterator[Unsplit]:
    """Take all helpers from what runs on a device: it stops, or others join it."""
    for running in steps(device):
        for id in running.lent:
            yield from release(pool, pool.devices[id], reason)


def _run_of(pool: Pool, key: OpKey, now: Seconds) -> tuple[float, OpKey, Device, Running] | None:
    device = pool.devices[pool.where(key)]
    running = device.running[key]
    op = running.op
    dealt = len(running.helpers) + 1 >= op.parts and not _saved(pool, running)
    if dealt or device.alone or device.rows != op.rows:
        return None  # dealt as far as it goes, or a shared pass, which stays on its device
    left = remaining(pool, device, running, now)
    if left < _LEAST * _pass(pool, running, 0) or _pass(pool, running, 1) > _HASTE * pool.queue.haste.value:
        return None
    return -left, key, device, running


def _there(device: Device, components: tuple[ComponentId, ...], now: Seconds) -> bool:
    return all(device.held[component].ready <= now for component in components)


def _helpers(pool: Pool, components: tuple[ComponentId, ...], holds: Holds, now: Seconds) -> list[Device]:
    found = pool.devices.holding(components[0], pool.devices.unused)
    return [
        d for d in found if not d.missing(components) and _there(d, components, now) and d.id not in holds
    ]


def _gain(pool: Pool, running: Running, free: int) -> int:
    """How many of the free devices make passes shorter, each step up to there by enough."""
    taken, before = 0, _pass(pool, running, 0)
    for more in range(1, min(free, running.op.parts - 1 - len(running.helpers)) + 1):
        seconds = _pass(pool, running, more)
        if seconds <= before * _WORTH:
            taken, before = more, seconds
    return taken


def _pass(pool: Pool, running: Running, more: int) -> float:
    op = running.op
    return pool.profile.dealt(op.components[0], op.rows, op.parts, len(running.helpers) + 1 + more)


def _saved(pool: Pool, running: Running) -> Seconds:
    """What passes take less where another device asks the ControlNets for the rows that stay; 0 where too
    little.
    """
    op = running.op
    if running.aside is not None or not op.controls or not pool.late.issuperset(op.controls):
        return 0.0
    rows = ceil(op.rows / op.parts) * ceil(op.parts / (len(running.helpers) + 1))
    own = pool.profile.step(op.components[0], rows)
    asked = sum(pool.profile.step(control, rows) for control in op.controls)
    saved = own + asked - max(_EARLY * own, asked + HANDOVER) - (1 - _EARLY) * own
    return saved if saved >= (1 - _WORTH) * (own + asked) else 0.0
