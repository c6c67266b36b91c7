"""A fleet of devices, a day of traffic and a policy on a virtual clock: what would become of every job.

`Simulation` runs the live `plan()` (or a baseline) against simulated devices. Without I/O, clock or
unseeded chance: equal inputs give equal outcomes.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from backend.schedule.pool import Decision, Reject, Resume, Run
from backend.schedule.simulation.catalogue import GIB, Catalogue
from backend.schedule.simulation.fleet import Done, Failed, Fleet, Lost, Progress, Report, Task
from backend.schedule.simulation.host import Host
from backend.schedule.simulation.lowering import lower
from backend.schedule.simulation.policies import Device, Policy
from backend.schedule.simulation.workload import Job
from backend.types import ComponentId, OpKey, Seconds
from backend.values import frozen

_PATIENCE, _STARVED = 1.0, 3600.0
_LOOK_AGAIN = 0.5  # seconds after which progress alone is a reason to plan again


@frozen
class Hardware:
    """memory: GiB of each device, of which `weights` is for weights; host: GiB of host memory per device."""

    devices: int = 8
    memory: float = 79.2
    weights: float = 0.9
    host: float = 64.0

    @property
    def capacity(self) -> float:
        return self.memory * self.weights * GIB


@frozen
class Ending:
    """What became of a job. ended None: it was refused at `left`."""

    job: Job
    ended: Seconds | None
    left: Seconds

    @property
    def in_time(self) -> bool:
        return self.ended is not None and self.ended <= self.job.due


@frozen
class Outcome:
    """loaded: bytes that went to devices; read: from disk; peak: held at once. busy: device seconds.
    served: when, whom and how much. backlog: for each user, the times in which an op of theirs waited.
    """

    endings: tuple[Ending, ...]
    loaded: float
    read: float
    peak: float
    busy: Seconds
    until: Seconds
    served: Sequence[tuple[Seconds, Seconds, str, Seconds]]
    backlog: dict[str, list[tuple[Seconds, Seconds]]]
    decisions: Counter[str]


@dataclass(slots=True)
class OpenJob:
    """A job that is not over. tasks: its ops in order; behind: how many of the first must end before the
    next.
    """

    job: Job
    tasks: list[Task]
    costs: list[Seconds]
    first: int
    left: int = 0
    ended: int = 0

    def may_run(self, task: Task) -> bool:
        """Whether what an op needs exists."""
        return task in self.tasks[: max(self.first, self.ended + 1)]


Make = Callable[[Catalogue, Host, Sequence[Device]], Policy]


@dataclass(slots=True)
class Simulation:
    """watch: is called after every decision: the place for invariants. post: when a report arrives, by
    default at once; none, or several times. skew: of the clock that the policy sees.
    """

    jobs: Sequence[Job]
    catalogue: Catalogue
    hardware: Hardware
    make: Make
    watch: Callable[["Simulation"], None] | None = None
    post: Callable[[Report], Sequence[Seconds]] | None = None
    skew: Seconds = 0.0
    fleet: Fleet = field(init=False)
    policy: Policy = field(init=False)
    now: Seconds = 0.0
    endings: dict[int, Ending] = field(default_factory=dict)
    open: dict[int, OpenJob] = field(default_factory=dict)
    decided: Counter[str] = field(default_factory=Counter)
    _owner: dict[OpKey, int] = field(default_factory=dict)
    _waits: dict[OpKey, Task] = field(default_factory=dict)
    _waiting: Counter[str] = field(default_factory=Counter)
    _since: dict[str, Seconds] = field(default_factory=dict)
    _backlog: dict[str, list[tuple[Seconds, Seconds]]] = field(default_factory=dict)
    _planned: Seconds = -1.0
    _idle: Seconds = 0.0
    _mail: list[tuple[Seconds, int, Report]] = field(default_factory=list)
    _sent: int = 0
    _losses: set[int] = field(default_factory=set)
    _newest: Seconds = 0.0

    def __post_init__(self) -> None:
        hardware = self.hardware
        host = Host(self.catalogue, hardware.host * hardware.devices * GIB)
        self.fleet = Fleet(self.catalogue, host, hardware.devices, hardware.capacity)
        host.warm(_by_use(self.jobs))
        devices = [Device(id, hardware.capacity) for id in self.fleet.units]
        self.policy = self.make(self.catalogue, host, devices)

    def run(self) -> Outcome:
        """Until the last job is over."""
        for job in self.jobs:
            self._until(job.arrived)
            self._arrive(job)
        self._until(None)
        while self.open:  # what waits for nothing but time
            self.now += _PATIENCE
            self.fleet.now = self.now
            self.watch_time()
            before = len(self.open)
            self.decide()
            self._until(None)
            if len(self.open) == before:
                self._idle += _PATIENCE
            if self._idle > _STARVED:
                raise AssertionError(f"{len(self.open)} jobs starve, the first of them {min(self.open)}")
        return self.outcome()

    def watch_time(self) -> None:
        """Time passes without an event."""

    def outcome(self) -> Outcome:
        fleet = self.fleet
        for user in list(self._since):
            self._backlog.setdefault(user, []).append((self._since.pop(user), self.now))
        endings = tuple(self.endings[job.id] for job in self.jobs)
        busy = sum(unit.busy for unit in fleet.units.values())
        return Outcome(
            endings,
            fleet.loaded,
            fleet.host.read_bytes,
            fleet.peak,
            busy,
            self.now,
            fleet.served,
            self._backlog,
            self.decided,
        )

    # -- events ----------------------------------------------------------------------------------

    def _until(self, end: Seconds | None) -> None:
        """Let everything happen that happens before `end`."""
        while (at := self.next_at) is not None and (end is None or at < end):
            self.now = max(self.now, at)
            self.send(self.fleet.advance(self.now))
            while self._mail and self._mail[0][0] <= self.now:
                self.tell([heapq.heappop(self._mail)[2]])

    @property
    def clock(self) -> Seconds:
        """The time that the policy is told."""
        return self.now + self.skew

    @property
    def next_at(self) -> Seconds | None:
        times = [
            at for at in (self.fleet.next_at, self._mail[0][0] if self._mail else None) if at is not None
        ]
        return min(times, default=None)

    def send(self, reports: Iterable[Report]) -> None:
        """Reports are on their way; none overtakes another."""
        if self.post is None:
            self.tell(reports)
            return
        for report in reports:
            for delay in self.post(report):
                self._newest = max(self._newest, self.now + delay)
                self._sent += 1
                heapq.heappush(self._mail, (self._newest, self._sent, report))

    def tell(self, reports: Iterable[Report]) -> None:
        """What devices report; then what the policy makes of it."""
        news = False
        for report in reports:
            match report:
                case Progress(key, fraction):
                    self.policy.progress(key, fraction, self.clock)
                case Done(key, seconds):
                    news = True
                    self._done(key, seconds)
                case Failed(key, attempt):
                    news = True
                    self._again(key, attempt)
                case Lost(device, keys, number):
                    if number in self._losses:
                        continue  # told twice
                    news = True
                    self._losses.add(number)
                    for key, attempt in keys:
                        self._again(key, attempt)
                    self.policy.lost(device, self.clock)
        if news or (self.policy.waiting and self.now - self._planned >= _LOOK_AGAIN):
            self.decide()

    def decide(self) -> None:
        self._planned = self.now
        while decisions := self.policy.decide(self.clock):
            for decision in decisions:
                self._carry_out(decision)
            reports = self.fleet.take()
            if not reports:
                break
            self.send(reports)
        if self.watch is not None:
            self.watch(self)

    def _carry_out(self, decision: Decision) -> None:
        self.decided[type(decision).__name__] += 1
        if isinstance(decision, Reject):
            if decision.key in self._owner:  # else its job was refused for another of its ops
                self._refuse(self._owner[decision.key])
            return
        if isinstance(decision, (Run, Resume)):
            if decision.key not in self.fleet.tasks:
                return  # its job was refused by a decision of the same list
            self._unwait(decision.key)
        self.fleet.obey(decision)

    # -- jobs ------------------------------------------------------------------------------------

    def _arrive(self, job: Job) -> None:
        self.now = max(self.now, job.arrived)
        self.fleet.now = self.now
        tasks, costs, first = lower(job, self.catalogue, self.policy)
        opened = self.open[job.id] = OpenJob(job, tasks, costs, first)
        for task in tasks:
            self._owner[task.key] = job.id
            self.fleet.tasks[task.key] = task
            for component in task.components:
                self.fleet.host.fetch(component, self.now)  # files are read ahead
        self.policy.arrive(job, tasks, self.clock)
        self._release(opened)
        self.arrived(opened)
        self.decide()

    def _release(self, opened: OpenJob) -> None:
        """Ready the next ops of a job."""
        begin = 0 if opened.ended == 0 else opened.ended
        end = opened.first if begin == 0 else begin + 1
        rest = sum(opened.costs[end:])
        opened.left = end - begin
        for index in range(begin, end):
            task = opened.tasks[index]
            self._wait(task)
            self.policy.ready(task, opened.costs[index], opened.costs[index] + rest, self.clock)

    def _done(self, key: OpKey, seconds: Seconds) -> None:
        if key not in self._owner:
            return  # told twice
        self.policy.done(key, seconds, self.clock)
        opened = self.open.get(self._owner.pop(key))
        if opened is None:
            return  # refused meanwhile
        opened.ended += 1
        opened.left -= 1
        if opened.ended == len(opened.tasks):
            del self.open[opened.job.id]
            self._end(Ending(opened.job, self.now, self.now))
        elif not opened.left:
            self._release(opened)

    def _again(self, key: OpKey, attempt: int) -> None:
        """An op was lost, and is ready once more."""
        task = self.fleet.tasks.get(key)
        if key not in self._owner or key in self._waits or task is None or task.attempt != attempt:
            return  # told twice
        self.policy.done(key, None, self.clock)
        opened = self.open.get(self._owner[key])
        if opened is None:
            return
        index = next(i for i, task in enumerate(opened.tasks) if task.key == key)
        rest = sum(opened.costs[max(index + 1, opened.first) :])
        self._wait(opened.tasks[index])
        self.policy.ready(opened.tasks[index], opened.costs[index], opened.costs[index] + rest, self.clock)

    def _refuse(self, job: int) -> None:
        """The job ends; what still runs of it runs on for nothing."""
        opened = self.open.pop(job)
        running = [task for task in opened.tasks if self._runs(task)]
        gone = [task for task in opened.tasks if task.key in self.fleet.tasks and task not in running]
        for task in gone:
            self._unwait(task.key)
            self.fleet.cancel(task.key)
            del self._owner[task.key]
        self.policy.gone(opened.job, gone)
        self._end(Ending(opened.job, None, self.now))

    def _runs(self, task: Task) -> bool:
        unit = self.fleet.where.get(task.key)
        return unit is not None and task.key not in unit.paused

    def _end(self, ending: Ending) -> None:
        if ending.job.id in self.endings:
            raise AssertionError(f"job {ending.job.id} ended twice")
        self.endings[ending.job.id] = ending
        self.left(ending)

    def arrived(self, opened: OpenJob) -> None:
        """A job is here; nothing is decided yet."""

    def left(self, ending: Ending) -> None:
        """A job is over."""

    # -- who waits -------------------------------------------------------------------------------

    def _wait(self, task: Task) -> None:
        self._waits[task.key] = task
        self._waiting[task.user] += 1
        self._since.setdefault(task.user, self.now)

    def _unwait(self, key: OpKey) -> None:
        task = self._waits.pop(key, None)
        if task is None:
            return
        self._waiting[task.user] -= 1
        if not self._waiting[task.user]:
            since = self._since.pop(task.user)
            if since < self.now:
                self._backlog.setdefault(task.user, []).append((since, self.now))


def _by_use(jobs: Sequence[Job]) -> list[ComponentId]:
    """Components, the most used first."""
    uses: Counter[ComponentId] = Counter()
    for job in jobs:
        uses.update((*job.base.parts, *job.adapters))
    return [component for component, _ in uses.most_common()]
