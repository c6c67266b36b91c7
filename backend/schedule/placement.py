"""Where an op could start: the device, what it must load and drop for it, and why there."""

from collections.abc import Iterable, Mapping
from dataclasses import field
from math import inf

from backend.schedule.crowding import PLAY, crowds, latest, remaining, turn
from backend.schedule.devices import Device
from backend.schedule.memory import room
from backend.schedule.pool import ReadyOp
from backend.schedule.state import Pool
from backend.types import ComponentId, DeviceId, Seconds
from backend.values import frozen

_WITH = "it holds the network, and what else the op needs comes soonest there"
SPARED = 0.25  # of the devices start no op whose pass takes longer
HASTE = 0.5  # than that share of what hurried ops have to spare,
SPARE = 0.2  # while it can wait for that share of its path, or is deferred
HARM = 5.0  # times as much weighs what a whole op takes beside a run that it makes late
Holds = Mapping[DeviceId, ReadyOp]  # devices that are kept for an op that could not start yet


@frozen
class Place:
    """sizes: bytes of what must be loaded; evict: what must go first; replica: other devices hold it too."""

    device: Device
    reason: str
    sizes: Mapping[ComponentId, float] = field(default_factory=dict)
    evict: tuple[ComponentId, ...] = ()
    replica: bool = False


def place(pool: Pool, op: ReadyOp, holds: Holds, now: Seconds) -> Place | None:
    """The best device for a model op that can start now; None where it is to wait."""
    if op.kind == "step" and _waits(pool, op, now):
        return None
    if op.home is not None:
        return _home(pool, op, holds, now)
    return _step(pool, op, holds, now) if op.kind == "step" else _whole(pool, op, holds, now)


def _waits(pool: Pool, op: ReadyOp, now: Seconds) -> bool:
    """Whether an op with long passes leaves the last idle devices to hurried ones, as long as it has time."""
    if op.deadline is None:
        return False
    if not op.deferred and op.deadline - now < (1 + SPARE) * op.path:
        return False
    if len(pool.devices.idle) > SPARED * len(pool.devices.workers):
        return False
    return pool.profile.step(op.components[0], op.rows) > HASTE * pool.queue.haste.value


def too_large(pool: Pool, op: ReadyOp) -> bool:
    """Whether the op's weights fit no device, even alone there. Guessed sizes prove nothing."""
    total, profile = 0.0, pool.profile
    for component in op.components:
        total += profile.nbytes(component)
    return total > pool.devices.largest > 0 and all(map(profile.exact, op.components))


def admits(op: ReadyOp, device: Device, holds: Holds) -> bool:
    """Whether a device takes the op's kind of work, memory aside."""
    if device.alone or (op.alone and (device.running or device.paused)):
        return False
    keeper = holds.get(device.id)
    if op.kind == "whole":
        return device.open_slot and (
            keeper is None or (keeper.kind == "step" and not device.missing(op.components))
        )
    if keeper is not None and keeper.batch != op.batch:
        return False
    if device.rows == 0:
        return True
    return device.batch == op.batch and device.rows + op.rows <= device.max_rows


def sized(pool: Pool, op: ReadyOp, device: Device) -> dict[ComponentId, float]:
    """Bytes that the device would have to load. A guess counts as what the device has at most."""
    nbytes_of = pool.profile.nbytes
    sizes = {component: nbytes_of(component) for component in op.components if component not in device.held}
    total = sum(sizes.values())
    if total <= device.free:
        return sizes
    there = sum(device.held[c].nbytes for c in op.components if c not in sizes)
    most = max(0.0, device.capacity - there)
    if total > most and not all(map(pool.profile.exact, sizes)):
        return {component: nbytes * (most / total) for component, nbytes in sizes.items()}
    return sizes


def cleared(
    pool: Pool, op: ReadyOp, device: Device, now: Seconds
) -> tuple[dict[ComponentId, float], list[ComponentId]] | None:
    """What to load and what to drop first so that the op's weights fit; None where they do not fit now."""
    if all(component in device.held for component in op.components):
        return {}, []
    sizes = sized(pool, op, device)
    victims = room(device, sum(sizes.values()), op.components, pool.worth(now))
    return None if victims is None else (sizes, victims)


def loading(pool: Pool, components: Iterable[ComponentId]) -> Seconds:
    return sum(map(pool.profile.load, components))


def delay(pool: Pool, op: ReadyOp, device: Device, now: Seconds) -> Seconds:
    """Until the op's weights are on a device: those under way, and behind them those to be sent for."""
    there, missing = now, False
    for component in op.components:
        held = device.held.get(component)
        if held is None:
            missing = True
        elif held.ready > there:
            there = held.ready
    if not missing:
        return there - now
    after = max(0.0, device.channel - now) + loading(pool, device.missing(op.components))
    return max(there - now, after)


def joins(pool: Pool, op: ReadyOp, device: Device, holds: Holds, now: Seconds) -> bool:
    """Whether an op fits the batch that runs there, and it pays to share its passes."""
    fits = pool.rules.batch and device.stepping and device.batch == op.batch and admits(op, device, holds)
    if not fits or op.components[0] not in device.held:
        return False
    if not pool.profile.pays(op.components[0], device.rows, op.rows) or crowds(pool, op, device, now):
        return False
    if device.missing(op.components) and cleared(pool, op, device, now) is None:
        return False  # its adapters find no room
    return _in_time(pool, op, device, now)


def _in_time(pool: Pool, op: ReadyOp, device: Device, now: Seconds) -> bool:
    """Whether an op that joins a batch meets its deadline, if it can be met at all."""
    if op.deadline is None:
        return True
    component, step = op.components[0], pool.profile.step
    slower = step(component, device.rows + op.rows) / max(1e-9, step(component, op.rows))
    return now + PLAY * op.cost * slower + op.path - op.cost + turn(pool, device) / 2 <= op.deadline


def _home(pool: Pool, op: ReadyOp, holds: Holds, now: Seconds) -> Place | None:
    assert op.home is not None
    device = pool.devices[op.home]
    if not device.stepping and not device.alone:
        return Place(device, "its device is free again")
    if joins(pool, op, device, holds, now):
        return Place(device, "there is room again beside what runs")
    return None


def _step(pool: Pool, op: ReadyOp, holds: Holds, now: Seconds) -> Place | None:
    devices = pool.devices
    if devices.idle:
        holders = [d for d in devices.holding(op.components[0], devices.idle) if admits(op, d, holds)]
        resident = [d for d in holders if not d.missing(op.components)]
        waits = {d.id: delay(pool, op, d, now) for d in resident}
        if resident:
            best = min(resident, key=lambda d: (waits[d.id], d.whole, d.id))
            if not waits[best.id] or not too_late(op, now + waits[best.id]):
                return Place(best, "its weights are resident on an idle device")
    batches = [d for d in devices.joinable(op.batch or "") if joins(pool, op, d, holds, now)]
    if not batches:
        return _cold(pool, op, holds, now) if devices.idle else None
    best = min(batches, key=lambda d: (d.rows, d.id))
    profile, component = pool.profile, op.components[0]
    slowdown = profile.step(component, best.rows + op.rows) / max(1e-9, profile.step(component, op.rows)) - 1
    spread = _cold(pool, op, holds, now, slowdown * op.cost) if devices.idle else None
    return spread or joined(pool, op, best, now)


def joined(pool: Pool, op: ReadyOp, device: Device, now: Seconds, reason: str | None = None) -> Place:
    """A place in the batch of a device, with the adapters that must come for it."""
    found = cleared(pool, op, device, now)
    assert found is not None
    reason = reason or f"joins a batch of {device.rows} rows of the same denoiser"
    return Place(device, reason, found[0], tuple(found[1]))


def _whole(pool: Pool, op: ReadyOp, holds: Holds, now: Seconds) -> Place | None:
    devices = pool.devices
    if not devices.open:
        return None
    if not op.components:
        usable = [d for d in devices.choice(devices.open) if admits(op, d, holds)]
        best = min(usable, key=lambda d: (d.rows, d.whole, d.id), default=None)
        return None if best is None else Place(best, "it needs no weights, and a device is free")
    holders = [d for d in devices.holding(op.components[0], devices.open) if admits(op, d, holds)]
    resident = [d for d in holders if not d.missing(op.components)]
    if not resident:
        return _cold(pool, op, holds, now)
    waits = {d.id: _burden(pool, op, d, now) for d in resident}
    best = min(resident, key=lambda d: (waits[d.id], d.whole, d.id))
    if waits[best.id] and (spread := _cold(pool, op, holds, now, waits[best.id])) is not None:
        return spread
    return Place(best, "its weights are resident there")


def _burden(pool: Pool, op: ReadyOp, device: Device, now: Seconds) -> Seconds:
    """What a whole op would wait on a device with its weights, and others there would wait for it."""
    ready = max((device.held[c].ready - now for c in op.components if c in device.held), default=0.0)
    if not device.stepping:
        return max(0.0, ready)
    late = any(now + op.cost > due for due in latest(pool, device, now))
    return max(ready, turn(pool, device) / 2) + op.cost * (HARM if late else 0.5)


def _wait(pool: Pool, op: ReadyOp, now: Seconds) -> Seconds:
    """Until a device that holds the op's weights could take it; for ever where none does."""
    devices = pool.devices
    holders = [d for d in devices.holding(op.components[0], devices.workers) if not d.missing(op.components)]
    if not holders:
        return inf
    backlog = pool.queue.waiting(op) / len(holders)
    return backlog + min(_free_in(pool, d, now) for d in holders)


def _free_in(pool: Pool, device: Device, now: Seconds) -> Seconds:
    seconds = pool.free_in.get(device.id)
    if seconds is None:
        left = (remaining(pool, device, running, now) for running in device.running.values())
        seconds = pool.free_in[device.id] = max(left, default=0.0)
    return seconds


def _cold(
    pool: Pool, op: ReadyOp, holds: Holds, now: Seconds, patience: Seconds | None = None
) -> Place | None:
    """The device that gets the op's weights soonest, if that takes less than `patience`.

    patience None: than the wait for a device that has them.
    """
    devices, options = pool.devices, list[tuple[float, DeviceId, Place]]()
    elsewhere = op.components[0] in devices.has
    within = devices.idle if op.kind == "step" else devices.open
    for device in _likely(pool, op, within) if within else ():
        replica = elsewhere and op.components[0] not in device.held
        found = cleared(pool, op, device, now) if admits(op, device, holds) else None
        if found is None:
            continue
        sizes, victims = found
        seconds = loading(pool, sizes) + max(0.0, device.channel - now)
        if op.kind == "whole":
            seconds += _burden(pool, op, device, now)
        if patience is None:
            patience = _wait(pool, op, now)
        if seconds >= patience or (replica and too_late(op, now + seconds)):
            continue
        here = elsewhere and not replica
        reason = _WITH if here else _why(seconds, patience, replica)
        seen = Place(device, reason, sizes, tuple(victims), replica)
        if not victims and not device.stepping and (not replica or all(o[2].replica for o in options)):
            return seen
        weight = seconds + loading(pool, victims)
        options.append((weight, device.id, seen))
    return min(options, key=lambda o: o[:2])[2] if options else None


def _likely(pool: Pool, op: ReadyOp, within: Mapping[DeviceId, object]) -> Iterable[Device]:
    """Devices to look at: first those that hold the op's network and lack what comes with it, its LoRAs."""
    some = pool.devices.choice(within)
    if len(op.components) == 1:
        return some
    near = [d for d in pool.devices.holding(op.components[0], within) if d.missing(op.components)]
    return dict.fromkeys([*near, *some])


def too_late(op: ReadyOp, begun: Seconds) -> bool:
    """Whether an op's job would miss its deadline if the op began only then."""
    return op.deadline is not None and begun + op.path > op.deadline


def _why(seconds: Seconds, patience: Seconds, replica: bool) -> str:
    if not replica:
        return "no device holds its weights; this one has them soonest"
    return f"another copy: loading takes {seconds:.2g} s, waiting for one that is there {patience:.2g} s"
