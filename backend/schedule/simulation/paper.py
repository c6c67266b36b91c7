"""Micro-serving as LegoDiffusion's paper describes it (arXiv 2604.08123): the policy to improve on.

Ops first come, first served by their request; the head is grouped with ready ops of its model and goes to
the device with the least queue + transfer + load + execution; weights leave by least recent use; requests
that can't be in time are aborted early; guidance's halves go to two devices where one is idle. A group runs
to its end as it was formed.
"""

from bisect import insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from backend.schedule.pool import Decision, Reject, Split
from backend.schedule.profile import HANDOVER
from backend.schedule.simulation.catalogue import LORA_TAX, Catalogue
from backend.schedule.simulation.fleet import Task
from backend.schedule.simulation.host import Host
from backend.schedule.simulation.lanes import Lane, Lanes
from backend.schedule.simulation.policies import Device
from backend.schedule.simulation.workload import Job
from backend.types import DeviceId, OpKey, Seconds


@dataclass(eq=False)
class Paper:
    """ops: those in the queue. paths: of each op that is not over, the seconds of its job from there on.
    next_up: for each device the group that is committed to it and runs when it is free.
    """

    catalogue: Catalogue
    host: Host
    devices: Sequence[Device]
    whole: bool = False
    merged: bool = False
    max_rows: int = 16
    lanes: Lanes = field(init=False)
    queue: list[tuple[int, OpKey]] = field(default_factory=list)
    ops: dict[OpKey, Task] = field(default_factory=dict)
    paths: dict[OpKey, Seconds] = field(default_factory=dict)
    next_up: dict[DeviceId, list[Task]] = field(default_factory=dict)
    lent: dict[OpKey, list[Lane]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.lanes = Lanes(self.catalogue, self.host, self.devices)

    def arrive(self, job: Job, tasks: Iterable[Task], now: Seconds) -> None: ...

    def ready(self, task: Task, cost: Seconds, path: Seconds, now: Seconds) -> None:
        self.paths[task.key] = path
        self._enqueue(task)

    def _enqueue(self, task: Task) -> None:
        insort(self.queue, (task.job, task.key))
        self.ops[task.key] = task

    def progress(self, key: OpKey, fraction: float, now: Seconds) -> None: ...

    def done(self, key: OpKey, seconds: Seconds | None, now: Seconds) -> None:
        self.lanes.done(key)
        self.paths.pop(key, None)
        for lane in self.lent.pop(key, ()):
            lane.reserved = False

    def gone(self, job: Job, tasks: Iterable[Task]) -> None:
        keys = {task.key for task in tasks}
        self.queue = [entry for entry in self.queue if entry[1] not in keys]
        for key in keys:
            self.ops.pop(key, None)
            self.paths.pop(key, None)
        for id, group in list(self.next_up.items()):
            self.next_up[id] = [task for task in group if task.key not in keys]

    def lost(self, device: DeviceId, now: Seconds) -> None:
        self.lanes.remove(device)
        for task in self.next_up.pop(device, ()):
            self._enqueue(task)

    def restored(self, device: Device, now: Seconds) -> None:
        self.lanes.add(device)

    @property
    def waiting(self) -> int:
        return len(self.queue) + sum(map(len, self.next_up.values()))

    def decide(self, now: Seconds) -> list[Decision]:
        decisions = self._abort(now)
        for lane in self.lanes.free:
            if committed := self.next_up.pop(lane.id, None):
                decisions += self._start(lane, committed, now)
        while self.queue:
            group = self._group()
            best = self._best(group, now)
            if best is None:
                break
            keys = {task.key for task in group}
            self.queue = [entry for entry in self.queue if entry[1] not in keys]
            for key in keys:
                del self.ops[key]
            if best.running or best.reserved:
                self.next_up[best.id] = group
                decisions += self.lanes.load(best, group[0].components, now) or []
            else:
                decisions += self._start(best, group, now)
        return decisions + self._spread()

    def _abort(self, now: Seconds) -> list[Decision]:
        late = [key for _, key in self.queue if now + self.paths[key] > self.ops[key].due]
        jobs = {self.ops[key].job for key in late}
        for job, key in list(self.queue):
            if job in jobs:
                self.queue.remove((job, key))
                del self.ops[key]
        for id, group in self.next_up.items():
            self.next_up[id] = [task for task in group if task.job not in jobs]
        return [Reject(key, "too late", "deadline") for key in late]

    def _group(self) -> list[Task]:
        head = self.ops[self.queue[0][1]]
        group, rows = [head], head.rows
        for _, key in self.queue[1:]:
            task = self.ops[key]
            same = (task.kind, task.batch, task.components) == (head.kind, head.batch, head.components)
            if same and rows + task.rows <= self.max_rows and self._pays(head, rows, task.rows):
                group.append(task)
                rows += task.rows
        return group

    def _pays(self, head: Task, rows: int, more: int) -> bool:
        seconds = self.catalogue.seconds
        component = head.components[0]
        return seconds(component, rows + more) <= 0.95 * (seconds(component, rows) + seconds(component, more))

    def _best(self, group: list[Task], now: Seconds) -> Lane | None:
        """The least queue + transfer + load + execution (equal transfers and execution left out)."""
        components = group[0].components
        options = []
        for lane in self.lanes.all.values():
            if lane.id in self.next_up or not self.lanes.fits(lane, components):
                continue
            queue = max(0.0, lane.free_at - now) if lane.running or lane.reserved else 0.0
            load = self.lanes.load_seconds(lane, components, now)
            options.append((max(queue, load) if queue else load, lane.nbytes, lane.id, lane))
        return min(options, key=lambda o: o[:3])[3] if options else None

    def _start(self, lane: Lane, group: list[Task], now: Seconds) -> list[Decision]:
        started = self.lanes.start(lane, group, now, lambda: self._seconds(group))
        if started is None:
            for task in group:
                self._enqueue(task)
            return []
        return started

    def _seconds(self, group: list[Task]) -> Seconds:
        head = group[0]
        if head.kind == "whole":
            return head.together(group) if head.together is not None else head.seconds
        rows = sum(task.rows for task in group)
        each = self.catalogue.seconds(head.components[0], rows)
        each += sum(self.catalogue.seconds(net, rows) for net in head.nets)
        return max(task.passes for task in group) * each * (LORA_TAX if head.taxed else 1.0)

    def _spread(self) -> list[Decision]:
        """Idle devices take the other half of a guided run's passes, for as long as it lasts."""
        decisions: list[Decision] = []
        if self.waiting:
            return decisions
        for helper in self.lanes.free:
            for lane in self.lanes.all.values():
                tasks = list(lane.running.values())
                if lane is helper or len(tasks) != 1 or tasks[0].key in self.lent or tasks[0].kind != "step":
                    continue
                task = tasks[0]
                if not task.guided or any(c not in helper.held for c in task.components) or task.done:
                    continue
                halved = self.catalogue.seconds(task.components[0], task.rows // 2) + HANDOVER
                if halved > 0.95 * self.catalogue.seconds(task.components[0], task.rows):
                    continue
                helper.reserved, helper.free_at = True, lane.free_at
                self.lent[task.key] = [helper]
                decisions.append(Split(task.key, lane.id, helper.id, "an idle device holds the model"))
                break
        return decisions
