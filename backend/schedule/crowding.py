"""Fair parts of a shared pass: a batch is slower than a run alone, and one user may fill it.

With n users at work, each is due a device's n-th part at least: a pass may take a user's ops no longer than n
passes of their own would.
"""

from collections import Counter
from collections.abc import Collection, Iterator

from backend.schedule.devices import Device, Running
from backend.schedule.pool import ReadyOp
from backend.schedule.state import Pool
from backend.types import Seconds

PLAY = 1.5  # times as long as it looks a run may take: others begin and end on its device meanwhile
_SLACK = 1.05  # figures are no more exact than that


def crowds(pool: Pool, op: ReadyOp, device: Device, now: Seconds) -> bool:
    """Whether one more op of a user who has the larger part of a batch would slow down another's too much,
    or make one too late.
    """
    if any(running.op.deadline is not None for running in device.running.values()):
        return delays(pool, op, device, now)
    if all(running.op.user != op.user or running.op.kind != "step" for running in device.running.values()):
        return False
    rows = rows_by_user(device)
    mine = rows.pop(op.user, 0)
    if not rows:
        return False
    least = min(rows.values())
    return mine >= least and _pass(pool, op, device.rows + op.rows) > _due(pool, op, least)


def crowders(pool: Pool, op: ReadyOp, device: Device, owed: Collection[Running]) -> list[Running]:
    """Of the ops that may be stopped for an op, the fewest without which its user gets their part."""
    rows = rows_by_user(device)
    mine, total = rows.pop(op.user, 0) + op.rows, device.rows + op.rows
    due, victims = _due(pool, op, mine), list[Running]()
    for running in sorted(owed, key=lambda r: (-rows[r.op.user], -r.since)):
        if _pass(pool, op, total) <= due:
            break
        if rows[running.op.user] > mine:
            victims.append(running)
            rows[running.op.user] -= running.op.rows
            total -= running.op.rows
    return victims


def remaining(pool: Pool, device: Device, running: Running, now: Seconds) -> Seconds:
    """Until a running op ends, if its batch stays as it is; what it did since it last said so is a guess."""
    op, since = running.op, max(0.0, now - running.mark)
    if op.kind != "step":
        return max(running.left - since, 0.1 * running.left)
    component = op.components[0]
    alone = pool.profile.step(component, op.rows)
    if running.helpers:
        batched = pool.profile.dealt(component, op.rows, op.parts, len(running.helpers) + 1)
    else:
        batched = pool.profile.step(component, device.rows)
    left = running.left * batched / alone if alone else running.left
    return max(left - since, 0.1 * left)


def delays(pool: Pool, op: ReadyOp, device: Device, now: Seconds) -> bool:
    """Whether passes with one more op in them make one too late that would otherwise be in time."""
    slower = _pass(pool, op, device.rows + op.rows) / max(1e-9, _pass(pool, op, device.rows))
    for running in steps(device):
        if running.op.deadline is not None:
            spare = running.op.deadline - now - (running.op.path - running.op.cost)
            if spare < remaining(pool, device, running, now) * slower * PLAY:
                return True
    return False


def latest(pool: Pool, device: Device, now: Seconds) -> Iterator[Seconds]:
    """For each op of the batch with a deadline: until when it must go on."""
    for running in steps(device):
        op = running.op
        if op.deadline is not None:
            yield op.deadline - (op.path - op.cost) - PLAY * remaining(pool, device, running, now)


def turn(pool: Pool, device: Device) -> Seconds:
    """One pass of what steps there: until its end nothing else begins."""
    for running in device.running.values():
        op = running.op
        if op.kind == "step" and running.helpers:
            return pool.profile.step(op.components[0], op.rows // (1 + len(running.helpers)))
        if op.kind == "step":
            return pool.profile.step(op.components[0], device.rows)
    return 0.0


def _due(pool: Pool, op: ReadyOp, rows: int) -> Seconds:
    """The longest pass for a user with so many rows in it."""
    return _SLACK * pool.users * _pass(pool, op, rows)


def _pass(pool: Pool, op: ReadyOp, rows: int) -> Seconds:
    return pool.profile.step(op.components[0], rows)


def rows_by_user(device: Device) -> Counter[str]:
    """Rows of the batch by user."""
    rows: Counter[str] = Counter()
    for running in steps(device):
        rows[running.op.user] += running.op.rows
    return rows


def steps(device: Device) -> list[Running]:
    """The ops of the batch that runs there."""
    return [running for running in device.running.values() if running.op.kind == "step"]
