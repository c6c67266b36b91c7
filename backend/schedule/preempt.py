"""Which running ops stop after their step so that an op of a user who got less may start at once."""

from dataclasses import dataclass

from backend.schedule.devices import LOOK, Device, Running
from backend.schedule.placement import Place, cleared, loading
from backend.schedule.pool import ReadyOp
from backend.schedule.state import Pool
from backend.types import Seconds


@dataclass(frozen=True, slots=True)
class Takeover:
    """The ops that stop, and the place that this makes."""

    victims: tuple[Running, ...]
    place: Place


def takeover(pool: Pool, op: ReadyOp, now: Seconds) -> Takeover | None:
    """How a step op that finds no place gets one.

    An op is stopped only for the op of a user who has received less, and only if that would otherwise wait
    longer than it will itself run: so an op is never stopped for the sake of one that is no shorter.
    """
    if op.kind != "step" or op.alone or not op.components:
        return None
    devices = pool.devices
    if op.home is not None:
        candidates = [devices[op.home]]
    else:
        candidates = devices.holding(op.components[0], devices.workers)
        candidates += [d for d in devices.choice(devices.workers) if d not in candidates][: LOOK // 2]
    found = [t for d in candidates if d.stepping and not d.alone and (t := _on(pool, op, d, now)) is not None]
    return min(found, key=lambda t: (len(t.victims), t.place.device.id), default=None)


def _on(pool: Pool, op: ReadyOp, device: Device, now: Seconds) -> Takeover | None:
    room = cleared(pool, op, device, now)
    if room is None:
        return None
    sizes, evict = room
    least = op.cost + loading(pool, sizes)
    steps = [r for r in device.running.values() if r.op.kind == "step"]
    owed = [r for r in steps if r.left > least and _owes(pool, r.op, op)]
    if device.batch != op.batch:
        victims = owed if len(owed) == len(steps) else []
    else:
        victims = _for_rows(pool, op, device, owed) if not sizes else []
    if not victims:
        return None
    place = Place(
        device, "it was waiting longer than it will run, and its user has received less", sizes, tuple(evict)
    )
    return Takeover(tuple(victims), place)


def _for_rows(pool: Pool, op: ReadyOp, device: Device, owed: list[Running]) -> list[Running]:
    """As few as make room in the batch: the latest started first. None where not even all do."""
    rows, victims = device.rows, list[Running]()
    for running in reversed(owed):
        victims.append(running)
        rows -= running.op.rows
        fits = rows + op.rows <= device.max_rows
        if fits and (rows == 0 or pool.profile.pays(op.components[0], rows, op.rows)):
            return victims
    return []


def _owes(pool: Pool, running: ReadyOp, op: ReadyOp) -> bool:
    """Whether the running op's user has had more than the waiting op's. One's own ops are never stopped."""
    if running.user == op.user:
        return False
    if op.ahead != running.ahead:
        return op.ahead
    return pool.shares.served(running.user) > pool.shares.tag(op.user) + 1e-9
