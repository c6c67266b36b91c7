"""Whole-pipeline serving, as strong as its design allows: what Tessera is compared with.

All know the profile, keep what they loaded while there is room, load over a channel of its own, and (but for
the last) take jobs by deadline, drop the hopeless and run jobs of one pipeline, adapters and step count as
one batch. refuses: the largest are refused when they come while more comes than can be done; every figure is
the better of with and without. Without preemption that is worth more to them than to let these go last. What
they can't do is what makes them whole-pipeline serving: share a part, or stop between two steps.
"""

from bisect import insort
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from backend.schedule.overload import Haste, Overload
from backend.schedule.pool import Decision, Reject
from backend.schedule.simulation.catalogue import Base, Catalogue
from backend.schedule.simulation.fleet import Task
from backend.schedule.simulation.host import Host
from backend.schedule.simulation.lanes import Lane, Lanes
from backend.schedule.simulation.policies import Device
from backend.schedule.simulation.workload import Job
from backend.types import ComponentId, DeviceId, OpKey, Seconds

_LOOK = 64  # jobs of the queue that are thought about
_MATES = 8  # jobs in one batch at most
_GAIN = 0.95  # a batch must save a twentieth


def work_by_pipeline(jobs: Iterable[Job], catalogue: Catalogue) -> dict[ComponentId, Seconds]:
    """What a partition is made for."""
    work: Counter[Base] = Counter()
    for job in jobs:
        work[job.base] += job.work  # type: ignore[assignment]
    return {catalogue.pipeline(base): float(seconds) for base, seconds in work.most_common()}


@dataclass(eq=False)
class Whole:
    """Common to all: a queue by deadline, and devices that each run one job or batch at a time."""

    catalogue: Catalogue
    host: Host
    devices: Sequence[Device]
    whole: bool = True
    merged: bool = True
    batches: bool = True
    refuses: bool = False
    lanes: Lanes = field(init=False)
    queue: list[tuple[Seconds, int, Task]] = field(default_factory=list)
    overload: Overload = field(default_factory=Overload)
    haste: Haste = field(default_factory=Haste)
    refused: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.lanes = Lanes(self.catalogue, self.host, self.devices)

    def arrive(self, job: Job, tasks: Iterable[Task], now: Seconds) -> None: ...

    def ready(self, task: Task, cost: Seconds, path: Seconds, now: Seconds) -> None:
        self.haste.note(task.due - now - task.seconds)
        if self.refuses and self._surplus(task, now):
            self.refused.add(task.job)
        insort(self.queue, (task.due, task.job, task))

    def progress(self, key: OpKey, fraction: float, now: Seconds) -> None: ...

    def done(self, key: OpKey, seconds: Seconds | None, now: Seconds) -> None:
        self.lanes.done(key)

    def gone(self, job: Job, tasks: Iterable[Task]) -> None: ...

    def lost(self, device: DeviceId, now: Seconds) -> None:
        self.lanes.remove(device)

    def restored(self, device: Device, now: Seconds) -> None:
        self.lanes.add(device)

    @property
    def waiting(self) -> int:
        return len(self.queue)

    def decide(self, now: Seconds) -> list[Decision]:
        decisions = self._drop(now)
        for entry in self.queue[:_LOOK]:
            if not self.lanes.free:
                break
            if entry not in self.queue:
                continue  # in a batch by now
            lane = self.choose(entry[2], now)
            if lane is not None:
                decisions += self._start(lane, entry, now)
        return decisions + self.prepare(now)

    def places(self, task: Task) -> bool:
        """Whether any device may run it at all."""
        return True

    def choose(self, task: Task, now: Seconds) -> Lane | None:
        """The free device for a job, if it is to start now."""
        raise NotImplementedError

    def prepare(self, now: Seconds) -> list[Decision]:
        """What to load while devices compute."""
        return []

    def _drop(self, now: Seconds) -> list[Decision]:
        late = {e[1] for e in self.queue if now + e[2].seconds > e[0] or not self.places(e[2])}
        late |= self.refused
        self.refused.clear()
        out: list[Decision] = [Reject(e[2].key, "too late", "deadline") for e in self.queue if e[1] in late]
        self.queue = [entry for entry in self.queue if entry[1] not in late]
        return out

    def _surplus(self, task: Task, now: Seconds) -> bool:
        """Whether a job that comes is large, and those in most haste could not wait for all that waits."""
        lanes = len(self.lanes.all)
        large = self.overload.defers(task.job, task.seconds, lanes, now)
        return large and sum(entry[2].seconds for entry in self.queue) > lanes * self.haste.value

    def _start(self, lane: Lane, entry: tuple[Seconds, int, Task], now: Seconds) -> list[Decision]:
        task = entry[2]
        tasks = [task, *(self._mates(lane, task, now) if self.batches else ())]
        assert task.together is not None
        together = task.together
        started = self.lanes.start(lane, tasks, now, lambda: together(tasks))
        if started is None:
            return []
        self.queue = [other for other in self.queue if other[2] not in tasks]
        return started

    def _mates(self, lane: Lane, task: Task, now: Seconds) -> list[Task]:
        """Jobs that share its batch with gain, and without making one of them late."""
        tasks, due = [task], task.due
        together = task.together
        assert together is not None
        begin = now + self.lanes.load_seconds(lane, task.components, now)
        for _, _, other in self.queue:
            if other is task or other.batch != task.batch:
                continue
            seconds = together([*tasks, other])
            gains = seconds <= _GAIN * (together(tasks) + other.seconds)
            if gains and begin + seconds <= min(due, other.due) and len(tasks) < _MATES:
                tasks.append(other)
                due = min(due, other.due)
        return tasks[1:]


@dataclass(eq=False)
class Static(Whole):
    """Each device keeps its pipelines for ever. work: of each pipeline, what the partition is made for.
    packed: as many on a device as its memory holds; else one each.
    """

    work: Mapping[ComponentId, Seconds] = field(default_factory=dict)
    packed: bool = True
    homes: dict[ComponentId, set[DeviceId]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        room = {d.id: d.capacity for d in self.devices}
        load = dict.fromkeys(room, 0.0)
        done: set[ComponentId] = set()
        while len(done) < len(self.work):
            copies = {c: len(self.homes.get(c, ())) for c in self.work if c not in done}
            component = max(copies, key=lambda c: (not copies[c], self.work[c] / (copies[c] + 1)))
            nbytes = self.catalogue.nbytes(component) * 1.02  # and what its adapters take
            taken = self.homes.setdefault(component, set())
            fitting = [
                id for id in room if id not in taken and room[id] >= nbytes and (self.packed or not load[id])
            ]
            if not fitting:
                done.add(component)
                continue
            id = min(fitting, key=lambda id: (load[id], id))
            taken.add(id)
            room[id] -= nbytes
            load[id] += self.work[component] / len(taken)

    def places(self, task: Task) -> bool:
        return bool(self.homes.get(task.components[0]))

    def choose(self, task: Task, now: Seconds) -> Lane | None:
        homes = self.homes.get(task.components[0], set())
        free = [lane for lane in self.lanes.free if lane.id in homes]
        return min(
            free,
            key=lambda lane: (self.lanes.load_seconds(lane, task.components, now), lane.id),
            default=None,
        )


@dataclass(eq=False)
class Groups(Whole):
    """Shepherd-like: groups of devices, each for the pipelines that its devices hold all together."""

    work: Mapping[ComponentId, Seconds] = field(default_factory=dict)
    group_of: dict[ComponentId, set[DeviceId]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        bins: list[tuple[list[ComponentId], float, float]] = []
        capacity = min(d.capacity for d in self.devices)
        for component in self.work:  # the most work first
            nbytes = self.catalogue.nbytes(component) * 1.02
            for index, (members, used, work) in enumerate(bins):
                if used + nbytes <= capacity:
                    bins[index] = ([*members, component], used + nbytes, work + self.work[component])
                    break
            else:
                bins.append(([component], nbytes, self.work[component]))
        bins = sorted(bins, key=lambda b: -b[2])[: len(self.devices)]
        counts = _apportion([b[2] for b in bins], len(self.devices))
        ids = iter(d.id for d in self.devices)
        for (members, _, _), count in zip(bins, counts, strict=True):
            group = {next(ids) for _ in range(count)}
            self.group_of.update(dict.fromkeys(members, group))

    def places(self, task: Task) -> bool:
        return task.components[0] in self.group_of

    def choose(self, task: Task, now: Seconds) -> Lane | None:
        group = self.group_of.get(task.components[0], set())
        free = [lane for lane in self.lanes.free if lane.id in group]
        return min(
            free,
            key=lambda lane: (self.lanes.load_seconds(lane, task.components, now), lane.id),
            default=None,
        )


@dataclass(eq=False)
class Swap(Whole):
    """Clockwork-like: any pipeline on any device, loaded where that ends the job soonest."""

    def choose(self, task: Task, now: Seconds) -> Lane | None:
        lanes = self.lanes
        fitting = [lane for lane in lanes.free if lanes.fits(lane, task.components)]
        if not fitting:
            return None
        waits = {lane.id: lanes.load_seconds(lane, task.components, now) for lane in fitting}
        best = min(fitting, key=lambda lane: (waits[lane.id], lane.nbytes, lane.id))
        sooner = (
            lane.free_at - now + lanes.load_seconds(lane, task.components, now)
            for lane in lanes.holders(task.components[0])
            if lane.running
        )
        return None if min(sooner, default=float("inf")) < waits[best.id] else best

    def prepare(self, now: Seconds) -> list[Decision]:
        """The next jobs' pipelines come while others run, where memory is left."""
        if self.lanes.free:
            return []
        decisions: list[Decision] = []
        for _, _, task in self.queue[:4]:
            if self.lanes.holders(task.components[0]):
                continue
            for lane in sorted(self.lanes.all.values(), key=lambda lane: (lane.free_at, lane.id)):
                if lane.channel > now:
                    continue
                loaded = self.lanes.load(lane, task.components, now)
                if loaded is not None:
                    decisions += loaded
                    break
        return decisions


@dataclass(eq=False)
class OneQueueEach(Whole):
    """ComfyUI-like: each device has its queue, first come first served; a job joins the shortest."""

    queues: dict[DeviceId, deque[Task]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.queues = {d.id: deque() for d in self.devices}

    def ready(self, task: Task, cost: Seconds, path: Seconds, now: Seconds) -> None:
        lengths = {id: len(q) + bool(self.lanes.all[id].running) for id, q in self.queues.items()}
        self.queues[min(lengths, key=lambda id: (lengths[id], id))].append(task)

    @property
    def waiting(self) -> int:
        return sum(map(len, self.queues.values()))

    def lost(self, device: DeviceId, now: Seconds) -> None:
        super().lost(device, now)
        for task in self.queues.pop(device):
            self.ready(task, 0.0, 0.0, now)

    def restored(self, device: Device, now: Seconds) -> None:
        super().restored(device, now)
        self.queues[device.id] = deque()

    def decide(self, now: Seconds) -> list[Decision]:
        decisions: list[Decision] = []
        for lane in self.lanes.free:
            queue = self.queues[lane.id]
            if queue:
                task = queue.popleft()
                started = self.lanes.start(lane, [task], now, lambda task=task: task.seconds)  # type: ignore[misc]
                decisions += started or [Reject(task.key, "no device can hold it", "size")]
        return decisions


def _apportion(weights: Sequence[float], seats: int) -> list[int]:
    """At least one seat each, the others where a seat has most to do."""
    counts = [1] * len(weights)
    for _ in range(seats - len(weights)):
        index = max(range(len(weights)), key=lambda i: (weights[i] / counts[i], -i))
        counts[index] += 1
    return counts
