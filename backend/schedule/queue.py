"""The ready ops, in fair order, by lanes.

A lane holds the ops that are alike to a device: where one can't start, none can. Of each lane only the best
op counts, so `plan()` looks at as many ops as there are lanes, not at all that wait. Nothing is ever sorted
anew: a user who was served moves back in all lanes at once, and each lane notices when that user comes up.
"""

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from backend.schedule.fairness import Shares
from backend.schedule.overload import Haste
from backend.schedule.pool import Order, ReadyOp
from backend.types import OpKey, Seconds

AGEING = 120.0  # seconds without service after which a user goes before jobs that were put ahead

# tiers: what goes first
# unserved for long; put ahead by hand; by deadline; deferred, the least first; the user served least
_AGED, _AHEAD, _DUE, _DEFERRED, _FAIR = range(5)

Entry: TypeAlias = tuple[Order, float, OpKey]  # the job's order, then the longest path first
# tier, the place in it, the op, its user
Head: TypeAlias = tuple[int, float, Entry, str]


@dataclass(slots=True, eq=False)
class Lane:
    """sample: one of its ops, now or once. lines: each user's ops, first things first. seconds: cost of all.

    heap: of each user's first op, where it stands now or earlier, `found` by user; and leftovers.
    """

    sample: ReadyOp
    lines: dict[str, list[Entry]] = field(default_factory=dict)
    heap: list[Head] = field(default_factory=list)
    found: dict[str, Head] = field(default_factory=dict)
    seconds: Seconds = 0.0

    def offer(self, head: Head) -> None:
        """A user's first op stands here now. Where it stood earlier, it stays until it comes up."""
        old = self.found.get(head[3])
        if old is None or head < old:
            self.found[head[3]] = head
            heapq.heappush(self.heap, head)

    def clear(self) -> None:
        """Its last op is gone, and leftovers need not be kept."""
        self.heap.clear()
        self.found.clear()


@dataclass(slots=True, eq=False)
class _User:
    """tier, place: see `Head`. since: when the user was last served, or came. ahead: ops put ahead."""

    tier: int
    place: float
    since: Seconds
    ahead: int = 0
    lanes: dict[object, Lane] = field(default_factory=dict)


class Queue:
    """epoch: counts the times that a user moved forward."""

    def __init__(self, shares: Shares, deadlines: bool = True) -> None:
        self.ops: dict[OpKey, ReadyOp] = {}
        self.lanes: dict[object, Lane] = {}
        self.calls: dict[object, Lane] = {}
        self.batches: dict[str, dict[object, Lane]] = {}
        self.epoch, self.haste = 0, Haste()
        self._shares, self._deadlines = shares, deadlines
        self._users: dict[str, _User] = {}
        self._ahead = 0
        self._late: list[tuple[Seconds, OpKey]] = []

    def __len__(self) -> int:
        return len(self.ops)

    def __contains__(self, key: OpKey) -> bool:
        return key in self.ops

    def add(self, op: ReadyOp, now: Seconds) -> None:
        user = self._users.get(op.user)
        if user is None:
            user = self._users[op.user] = _User(_FAIR, self._shares.enter(op.user), now)
        name = lane_of(op)
        lane = self._lane(name, op)
        self.ops[op.key] = op
        lane.seconds += op.cost
        entry = _entry(op)
        line = lane.lines.get(op.user)
        if line is None:
            lane.lines[op.user] = line = [entry]
            user.lanes[name] = lane
        else:
            insort(line, entry)
        if line[0] is entry:
            lane.offer(self._head(op.user, user, entry))
        if op.deadline is not None:
            insort(self._late, (op.deadline - op.path, op.key))
            self.haste.note(op.deadline - op.path - now)
        if op.ahead:
            user.ahead += 1
            self._ahead += 1
        if user.ahead:
            self.rank(op.user)

    def remove(self, key: OpKey) -> ReadyOp:
        """Take an op out, because it starts or is no longer wanted."""
        op = self.ops.pop(key)
        user, name = self._users[op.user], lane_of(op)
        lane = user.lanes[name]
        line, entry = lane.lines[op.user], _entry(op)
        index = bisect_left(line, entry)
        del line[index]
        lane.seconds -= op.cost
        if not line:
            del lane.lines[op.user], user.lanes[name]
            if not lane.lines:
                lane.clear()
                if op.kind != "host":
                    self._close(name, op)
        elif index == 0:
            lane.offer(self._head(op.user, user, line[0]))
        if op.deadline is not None:
            del self._late[bisect_left(self._late, (op.deadline - op.path, op.key))]
        if op.ahead:
            user.ahead -= 1
            self._ahead -= 1
        if not user.lanes:
            del self._users[op.user]
        elif user.ahead or op.ahead:
            self.rank(op.user)
        return op

    def best(self, lane: Lane) -> Head:
        """What goes first in a lane that has ops. Equal as long as nothing changes, and the same object."""
        heap, found = lane.heap, lane.found
        while True:
            head = heap[0]
            name = head[3]
            if found.get(name) is not head:
                heapq.heappop(heap)  # it has moved forward since
                continue
            line = lane.lines.get(name)
            if line is None:
                heapq.heappop(heap)
                del found[name]
                continue
            user = self._users[name]
            if user.place == head[1] and line[0] is head[2] and user.tier == head[0]:
                return head
            now = self._head(name, user, line[0])
            if now == head:
                return head
            heapq.heapreplace(heap, now)
            found[name] = now

    def head(self, lane: Lane) -> ReadyOp:
        return self.ops[self.best(lane)[2][2]]

    def waiting(self, op: ReadyOp) -> Seconds:
        """Cost of the other ops in a ready op's lane."""
        return max(0.0, self._users[op.user].lanes[lane_of(op)].seconds - op.cost)

    def rank(self, name: str, served: Seconds | None = None) -> None:
        """Put a user where their tag, and what they put ahead, says. served: the time, if they just were."""
        user = self._users.get(name)
        if user is None:
            return
        tier, place = _FAIR, self._shares.tag(name)
        if user.ahead:
            first = self.ops[min(lane.lines[name][0] for lane in user.lanes.values())[2]]
            if first.ahead:
                tier, place = _AHEAD, first.order[0]
        if served is not None:
            user.since = served
        elif user.tier == _AGED:
            return  # until they are served
        self._move(name, user, tier, place)

    def age(self, now: Seconds) -> None:
        """Nobody waits for ever behind jobs that were put ahead."""
        if not self._ahead:
            return
        for name, user in self._users.items():
            if user.tier == _FAIR and now - user.since > AGEING:
                self._move(name, user, _AGED, user.since)

    def late(self, now: Seconds) -> Iterator[ReadyOp]:
        """Ops whose job can't be over in time, as things stand. Each must be removed before the next."""
        while self._late and self._late[0][0] < now:
            yield self.ops[self._late[0][1]]

    def precedes(self, op: ReadyOp) -> bool:
        """Whether its user has an earlier job that waits for another denoiser: it would be overtaken."""
        for lane in self._users[op.user].lanes.values():
            other = lane.sample
            if other.kind == "step" and other.batch != op.batch and lane.lines[op.user][0][0] < _place(op):
                return True
        return False

    def _move(self, name: str, user: _User, tier: int, place: float) -> None:
        if (tier, place) == (user.tier, user.place):
            return
        forward = (tier, place) < (user.tier, user.place)
        user.tier, user.place = tier, place
        if forward:
            self.epoch += 1
            for lane in user.lanes.values():
                lane.offer(self._head(name, user, lane.lines[name][0]))

    def _head(self, name: str, user: _User, entry: Entry) -> Head:
        op = self.ops[entry[2]]
        if op.deadline is not None and self._deadlines and user.tier > _DUE:
            return (_DEFERRED, op.path, entry, name) if op.deferred else (_DUE, op.deadline, entry, name)
        return user.tier, user.place, entry, name

    def _lane(self, name: object, op: ReadyOp) -> Lane:
        lanes = self.calls if op.kind == "host" else self.lanes
        lane = lanes.get(name)
        if lane is None:
            lane = lanes[name] = Lane(op)
            if op.batch is not None:
                self.batches.setdefault(op.batch, {})[name] = lane
        return lane

    def _close(self, name: object, op: ReadyOp) -> None:
        del self.lanes[name]
        if op.batch is not None:
            del self.batches[op.batch][name]
            if not self.batches[op.batch]:
                del self.batches[op.batch]


def lane_of(op: ReadyOp) -> object:
    """What decides where an op can start."""
    if op.kind == "host":
        return op.serial
    return op.kind, op.batch, op.components, op.rows, op.alone, op.home, op.deferred


def _entry(op: ReadyOp) -> Entry:
    return _place(op), -op.path, op.key


def _place(op: ReadyOp) -> Order:
    """Within a user: what was put ahead, then by deadline, then what is deferred, then as it came."""
    if op.deadline is None or op.ahead:
        return op.order
    return (-0.25, op.path) if op.deferred else (-0.5, op.deadline)
