"""plan(): what each device does next, and why.

A function of the pool and the time, without I/O, clock or chance: equal histories give equal decisions. It
enters its decisions into the pool as it makes them, so that the next call starts from there.
"""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field

from backend.schedule import merging
from backend.schedule.batching import mates
from backend.schedule.devices import LOOK, Device, Running
from backend.schedule.memory import room
from backend.schedule.placement import Place, admits, joined, place, sized, too_large
from backend.schedule.pool import Decision, Evict, Load, Preempt, ReadyOp, Reject, Resume, Run
from backend.schedule.preempt import relief, takeover
from backend.schedule.prefetch import prefetch
from backend.schedule.queue import Head
from backend.schedule.splitting import lend, release, reunite
from backend.schedule.state import Pool
from backend.types import DeviceId, Seconds

PREEMPTORS = 4  # ops without a place, the fairest, for which others may be stopped in one call
MOST = 64  # decisions of one call, about: the caller calls again while it gets as many


@dataclass(slots=True)
class _Plan:
    """holds: devices kept for an op. stuck: ops that found no place: the first are thought about more. lefts:
    `Device.left`, as far as it was asked for.
    """

    pool: Pool
    now: Seconds
    decisions: list[Decision] = field(default_factory=list)
    holds: dict[DeviceId, ReadyOp] = field(default_factory=dict)
    stuck: int = 0
    lefts: dict[DeviceId, Seconds] = field(default_factory=dict)

    @property
    def full(self) -> bool:
        return len(self.decisions) >= MOST


def plan(pool: Pool, now: Seconds) -> list[Decision]:
    """What starts, stops, is loaded, dropped or refused now.

    The user who has received least goes first, what was put ahead before that; within a user the older job,
    within a job the longest path. An op goes where its weights are, or where they are soonest; it joins a
    batch while that pays. What can't start keeps a device from taking more of other kinds, or stops what its
    user is owed for.
    """
    state = _Plan(pool, now)
    pool.free_in.clear()
    if pool.over:
        _shed(state)
    pool.queue.age(now)
    _reject_late(state)
    if pool.queue.calls:
        _start_calls(state)
    if pool.queue.lanes:
        _start_ops(state)
    if pool.cold and pool.rules.prefetch:
        state.decisions.extend(prefetch(pool, state.holds, now))
    if pool.rules.split and not state.full:
        state.decisions.extend(lend(pool, state.holds, now))
    return state.decisions


def _shed(state: _Plan) -> None:
    """A device turned out to hold more than it should."""
    pool = state.pool
    worth = pool.worth(state.now)
    for id in list(pool.over):
        device = pool.devices[id]
        victims = room(device, 0.0, (), worth)
        if victims is None:
            continue  # all of it is in use: later
        for component in victims:
            pool.drop(device, component)
            state.decisions.append(Evict(component, id, "the device holds more than its memory allows"))
        del pool.over[id]


def _reject_late(state: _Plan) -> None:
    pool = state.pool
    for op in pool.queue.late(state.now):
        assert op.deadline is not None
        pool.remove(op.key)
        short = state.now + op.path - op.deadline
        reason = f"its job needs {op.path:.3g} s more at best and is {short:.3g} s too late for that"
        state.decisions.append(Reject(op.key, reason, "deadline"))


def _start_calls(state: _Plan) -> None:
    pool = state.pool
    for host in pool.devices.hosts.values():
        while host.whole < host.slots and not state.full:
            lanes = [lane for lane in pool.queue.calls.values() if lane.lines]
            if host.serial:
                lanes = [lane for lane in lanes if not lane.sample.serial]
            if not lanes:
                return
            op = pool.queue.head(min(lanes, key=pool.queue.best) if len(lanes) > 1 else lanes[0])
            pool.start(op, host, {}, state.now)
            state.decisions.append(Run(op.key, host.id, "a host thread is free"))


def _start_ops(state: _Plan) -> None:
    """Lane by lane, the fairest op first. A lane whose first op can't start is done with: none of it can."""
    queue = state.pool.queue
    blocked: set[object] = set()
    heap, epoch = _heads(state, blocked), queue.epoch
    while heap and len(state.decisions) < MOST:
        head, turn, name = heapq.heappop(heap)
        lane = queue.lanes.get(name)
        if lane is None:
            continue
        if (best := queue.best(lane)) is not head:
            heapq.heappush(heap, (best, turn, name))
            continue
        if _begin(state, queue.ops[head[2][2]]):
            if lane.lines:
                heapq.heappush(heap, (queue.best(lane), turn, name))
        else:
            blocked.add(name)
        if queue.epoch != epoch:
            heap, epoch = _heads(state, blocked), queue.epoch


def _heads(state: _Plan, blocked: set[object]) -> list[tuple[Head, int, object]]:
    """Lanes by their best ops, or what these were once: each is looked at again when it comes up."""
    lanes = state.pool.queue.lanes.items()
    heap = [(lane.heap[0], i, name) for i, (name, lane) in enumerate(lanes) if name not in blocked]
    heapq.heapify(heap)
    return heap


def _begin(state: _Plan, op: ReadyOp) -> bool:
    """Start an op, or refuse it, or keep a device for it. Returns: whether it is out of the queue."""
    pool = state.pool
    if too_large(pool, op):
        nbytes = sum(map(pool.profile.nbytes, op.components))
        reason = (
            f"its weights take {nbytes / 2**30:.3g} GiB, and the largest device has "
            f"{pool.devices.largest / 2**30:.3g} GiB for weights"
        )
        pool.remove(op.key)
        state.decisions.append(Reject(op.key, reason, "size"))
        return True
    found = place(pool, op, state.holds, state.now)
    if found is None:
        state.stuck += 1
        taken = takeover(pool, op, state.now) if state.stuck <= PREEMPTORS and pool.rules.preempt else None
        if taken is None:
            if state.stuck <= LOOK and not op.deferred:
                _hold(state, op)
            return False
        _stop(state, op, taken.place.device, taken.victims)
        found = taken.place
    if op.kind == "step":
        _stop(state, op, found.device, relief(pool, op, found.device, state.now))
    _enter(state, op, found)
    return True


def _stop(state: _Plan, op: ReadyOp, device: Device, victims: Iterable[Running]) -> None:
    reason = f"user {op.user or 'without a name'} has received less and would wait longer than it runs"
    state.lefts.pop(device.id, None)
    for running in victims:
        _reunite(state, device, "it stops")
        state.pool.pause(running.op.key, state.now)
        state.decisions.append(Preempt(running.op.key, device.id, reason))


def _enter(state: _Plan, op: ReadyOp, found: Place) -> None:
    """Write a start down, with what must go and come for it, and with the ops that share its batch."""
    pool, device = state.pool, found.device
    fresh = not device.stepping
    _drop(state, device, found)
    if found.replica:
        for component in found.sizes:
            state.decisions.append(Load(component, device.id, found.reason, "replicate"))
    _run(state, op, device, found)
    if op.kind == "step" and fresh and not op.alone:
        for mate in mates(pool, device, op.batch or "", state.holds, state.now):
            reason = "shares the passes of its batch from the start"
            seat = joined(pool, mate, device, state.now, reason)
            _drop(state, device, seat)
            _run(state, mate, device, seat)


def _drop(state: _Plan, device: Device, found: Place) -> None:
    """What must go from a device so that what a start needs can come."""
    pool = state.pool
    for component in found.evict:
        copies = len(pool.devices.has[component])
        pool.drop(device, component)
        if copies > 1:
            reason = f"{copies - 1} other devices hold it, and its memory is needed for another"
            state.decisions.append(Evict(component, device.id, reason, "retire"))
        else:
            reason = "the least worth keeping here, and its memory is needed for another"
            state.decisions.append(Evict(component, device.id, reason))


def _reunite(state: _Plan, device: Device, reason: str) -> None:
    state.decisions.extend(reunite(state.pool, device, reason))


def _run(state: _Plan, op: ReadyOp, device: Device, found: Place) -> None:
    state.decisions.extend(release(state.pool, device, "its device is needed for an op of its own"))
    if op.kind == "step":
        _reunite(state, device, "another op joins its passes")
    state.lefts.pop(device.id, None)
    if op.home is not None:
        state.pool.start(op, device, found.sizes, state.now)
        state.decisions.append(Resume(op.key, device.id, found.reason))
        return
    gone = merging.victims(state.pool, op, device, state.now)
    for component in gone or ():
        state.pool.drop(device, component)
        reason = "LoRAs are merged into a copy of the weights, which needs its memory"
        state.decisions.append(Evict(component, device.id, reason))
    state.pool.start(op, device, found.sizes, state.now, merge=gone is not None)
    state.decisions.append(Run(op.key, device.id, found.reason, merge=gone is not None))


def _hold(state: _Plan, op: ReadyOp) -> None:
    """Keep a device from taking more of another kind, so that the op's turn comes."""
    devices = state.pool.devices
    if not op.components or any(o.batch == op.batch and o.kind == op.kind for o in state.holds.values()):
        return
    if op.home is not None:
        candidates = [devices[op.home]]
    else:
        candidates = devices.holding(op.components[0], devices.workers) or devices.choice(devices.workers)
    free, lefts = list[tuple[Seconds, DeviceId]](), state.lefts
    for device in candidates[:LOOK]:
        if device.id not in state.holds:
            if device.id not in lefts:
                lefts[device.id] = device.left()
            free.append((lefts[device.id], device.id))
    suiting = (id for _, id in sorted(free) if _could(state, op, devices[id]))
    if (first := next(suiting, None)) is not None:
        state.holds[first] = op


def _could(state: _Plan, op: ReadyOp, device: Device) -> bool:
    """Whether the device will suit, once what runs there has ended."""
    if not device.missing(op.components):  # else it waits for something else
        return op.kind == "step" or not admits(op, device, state.holds)
    return sum(sized(state.pool, op, device).values()) <= device.capacity
