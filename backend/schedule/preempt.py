"""Which running ops stop after their step so that an op of a user who got less may start at once."""

from math import inf

from backend.schedule.crowding import PLAY, crowders, remaining, rows_by_user, steps, turn
from backend.schedule.devices import LOOK, Device, Running
from backend.schedule.placement import Place, cleared, delay, too_late
from backend.schedule.pool import ReadyOp
from backend.schedule.state import Pool
from backend.types import Seconds
from backend.values import frozen


@frozen
class Takeover:
    """The ops that stop, and the place that this makes. wait: until the op begins there. spare: what the one
    with the least that is not deferred can wait for and still be in time, below 0 where it can't. late: the
    op will be too late all the same.
    """

    victims: tuple[Running, ...]
    place: Place
    wait: Seconds
    spare: Seconds = inf
    late: bool = False


def takeover(pool: Pool, op: ReadyOp, now: Seconds) -> Takeover | None:
    """How a step op that finds no place gets one.

    An op is stopped only for the op of a user who has received less, and only if that would otherwise wait
    longer than it will itself run. Users with the larger part of a batch give way at once; otherwise an op
    has a turn first, as long as the other will run.
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
    return min(
        found,
        key=lambda t: (
            t.late,
            t.wait,
            -t.spare if t.spare >= 0 else inf,
            len(t.victims),
            t.place.device.id,
        ),
        default=None,
    )


def relief(pool: Pool, op: ReadyOp, device: Device, now: Seconds) -> list[Running]:
    """What stops beside a step op that joins a batch, so that its user gets their part of its passes."""
    if not device.stepping or op.deadline is not None:
        return []
    owed = [
        r for r in steps(device) if _owes(pool, r.op, op, 0.0) and remaining(pool, device, r, now) > op.cost
    ]
    return crowders(pool, op, device, owed) if owed else []


def _on(pool: Pool, op: ReadyOp, device: Device, now: Seconds) -> Takeover | None:
    room = cleared(pool, op, device, now)
    if room is None:
        return None
    sizes, evict = room
    wait = delay(pool, op, device, now)
    if wait and too_late(op, now + wait):
        return None
    if device.batch != op.batch:
        running = steps(device)
        victims = running if all(_long(pool, op, device, r, now) for r in running) else []
    else:
        victims = _for_rows(pool, op, device, now) if not sizes else []
    if not victims:
        return None
    reason = "it would have waited longer than it will run, and its user has received less"
    due = [r for r in victims if not r.op.deferred]
    spare = min((_spare(r, remaining(pool, device, r, now), now) for r in due), default=inf) - op.cost
    wait = max(wait, turn(pool, device))
    late = too_late(op, now + wait)
    return Takeover(tuple(victims), Place(device, reason, sizes, tuple(evict)), wait, spare, late)


def _for_rows(pool: Pool, op: ReadyOp, device: Device, now: Seconds) -> list[Running]:
    """As few as make room in the batch, of users with the larger part of it first; none where that fails."""
    rows, total, victims = rows_by_user(device), device.rows, list[Running]()
    mine = rows[op.user] + op.rows
    for running in sorted(steps(device), key=lambda r: (-rows[r.op.user], -r.since)):
        if not _owes(pool, running.op, op, 0.0):
            continue
        larger = rows[running.op.user] > mine and remaining(pool, device, running, now) > op.cost
        if larger or _long(pool, op, device, running, now):
            victims.append(running)
            rows[running.op.user] -= running.op.rows
            total -= running.op.rows
        fits = total + op.rows <= device.max_rows
        if victims and fits and (not total or pool.profile.pays(op.components[0], total, op.rows)):
            return victims
    return []


def _long(pool: Pool, op: ReadyOp, device: Device, running: Running, now: Seconds) -> bool:
    """Whether an op has had its turn and would keep another waiting for longer than that will run."""
    left = remaining(pool, device, running, now)
    if op.deadline is not None:
        if running.op.deferred and not op.deferred:
            return True
        if not _owes(pool, running.op, op, 0.0) or left <= op.cost:
            return False
        return _spare(running, left, now) >= op.cost
    if _spare(running, left, now) < op.cost:
        return False
    if now - running.since < op.cost or not _owes(pool, running.op, op, op.cost):
        return False
    return left > op.cost


def _spare(running: Running, left: Seconds, now: Seconds) -> Seconds:
    """For how long a run may be stopped and still be in time."""
    op = running.op
    return inf if op.deadline is None else op.deadline - now - PLAY * left - (op.path - op.cost)


def _owes(pool: Pool, running: ReadyOp, op: ReadyOp, quantum: Seconds) -> bool:
    """Whether the running op's user has had more than the waiting op's, by at least a quantum.

    One's own ops are stopped only for an earlier deadline. What was put ahead needs no such claim, and
    gives way to none.
    """
    if running.user == op.user and op.deadline is None:
        return False
    if op.ahead != running.ahead:
        return op.ahead
    if op.deferred != running.deferred:
        return running.deferred
    if op.deadline is not None:
        return running.deadline is None or running.deadline > op.deadline
    return pool.shares.served(running.user) >= pool.shares.tag(op.user) + quantum
