"""The simulated devices: they carry decisions out on a virtual clock and report what became of them.

A device does one thing at a time, as a worker does: a whole op, or passes of all that steps there. Weights
come over its own channel meanwhile. Passes between two changes are one event, not many: a change cuts them
short at the next step boundary.
"""

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from math import ceil, inf
from typing import Literal, TypeAlias

from backend.schedule.pool import Decision, Evict, Load, Preempt, Reject, Resume, Run, Split, Unsplit
from backend.schedule.profile import HANDOVER
from backend.schedule.simulation.catalogue import LORA_TAX, MERGE, Catalogue
from backend.schedule.simulation.host import Host
from backend.types import ComponentId, DeviceId, OpKey, Seconds
from backend.values import frozen

CHUNK = 12  # calls between two reports of progress
_TINY = 1e-9


@dataclass(slots=True, eq=False)
class Task:
    """An op of a job, or a whole pipeline.

    kind "step": passes of `rows` rows; "whole": `seconds`, or what `together` says of several of one batch.
    nets: ControlNets that run in each pass. taxed: LoRAs run beside the weights, but where `copy` names a
    copy of the weights with them in it, which is still to be made while `merge`. done: passes that are over.
    spent: device seconds so far.
    """

    key: OpKey
    job: int
    user: str
    kind: Literal["step", "whole"]
    components: tuple[ComponentId, ...]
    batch: str | None = None
    rows: int = 1
    parts: int = 1
    passes: int = 1
    seconds: Seconds = 0.0
    nets: tuple[ComponentId, ...] = ()
    taxed: bool = False
    copy: ComponentId | None = None
    merge: bool = False
    guided: bool = False
    together: Callable[[Sequence["Task"]], Seconds] | None = None
    due: Seconds = inf
    done: int = 0
    spent: Seconds = 0.0
    attempt: int = 0
    helpers: list[DeviceId] = field(default_factory=list)


@frozen
class Done:
    """seconds: of a device, what the op took of them."""

    key: OpKey
    seconds: Seconds


@frozen
class Progress:
    key: OpKey
    fraction: float


@frozen
class Lost:
    """A device is gone, with what ran there: each op and which attempt at it. number: tells losses apart."""

    device: DeviceId
    keys: tuple[tuple[OpKey, int], ...]
    number: int


@frozen
class Failed:
    """An attempt at an op came to nothing; it may run again."""

    key: OpKey
    attempt: int


Report: TypeAlias = Done | Progress | Lost | Failed


@dataclass(slots=True)
class Turn:
    """tasks: the whole ops, or those that step. since: the first call began, after `before` seconds of making
    copies. calls: passes that are planned; each takes `each`.
    """

    tasks: list[Task]
    since: Seconds
    each: Seconds
    calls: int
    whole: bool
    before: Seconds = 0.0

    @property
    def until(self) -> Seconds:
        return self.since + self.calls * self.each


@dataclass(slots=True, eq=False)
class Unit:
    """A device. there: what it holds, and from when on. channel: until when its channel loads. free_at:
    until when it still helps. version: of its next event. slow: how much slower it is than the profile
    says.
    """

    id: DeviceId
    capacity: float
    there: dict[ComponentId, Seconds] = field(default_factory=dict)
    nbytes: float = 0.0
    channel: Seconds = 0.0
    steps: dict[OpKey, Task] = field(default_factory=dict)
    paused: dict[OpKey, Task] = field(default_factory=dict)
    wholes: list[Task] = field(default_factory=list)
    turn: Turn | None = None
    helps: OpKey | None = None
    free_at: Seconds = 0.0
    version: int = 0
    slow: float = 1.0
    busy: Seconds = 0.0


class Fleet:
    """loaded: bytes that went to devices. peak: most bytes held at once, over all devices. beside: how much
    longer passes take with LoRAs beside the weights.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        host: Host,
        devices: int,
        capacity: float,
        beside: float = LORA_TAX,
    ) -> None:
        self.catalogue, self.host, self.now, self.beside = catalogue, host, 0.0, beside
        self.units = {id: Unit(id, capacity) for id in (DeviceId(f"gpu{n}") for n in range(devices))}
        self.tasks: dict[OpKey, Task] = {}
        self.where: dict[OpKey, Unit] = {}
        self.loaded = self.held = self.peak = 0.0
        self.served: list[tuple[Seconds, Seconds, str, Seconds]] = []
        self._events: list[tuple[Seconds, int, DeviceId, int]] = []
        self._count = count()
        self._reports: list[Report] = []

    # -- time ------------------------------------------------------------------------------------

    @property
    def next_at(self) -> Seconds | None:
        while self._events:
            at, _, id, version = self._events[0]
            unit = self.units.get(id)
            if unit is not None and (version == -1 or version == unit.version):
                return at
            heapq.heappop(self._events)
        return None

    def advance(self, now: Seconds) -> list[Report]:
        """All that happens until `now`, which is no later than `next_at`."""
        self.now = now
        while self._events and self._events[0][0] <= now + _TINY:
            _, _, id, version = heapq.heappop(self._events)
            unit = self.units.get(id)
            if unit is None or version not in (-1, unit.version):
                continue
            if version == -1:
                self._touch(unit)
            else:
                self._end(unit)
        return self.take()

    def take(self) -> list[Report]:
        reports, self._reports = self._reports, []
        return reports

    # -- decisions -------------------------------------------------------------------------------

    def obey(self, decision: Decision) -> None:
        """A decision that came too late, for what is over or gone, has no effect; an op for a lost device
        fails.
        """
        if isinstance(decision, Reject):
            self.cancel(decision.key)
        elif isinstance(decision, Run):
            self._run(decision)
        elif decision.device in self.units:
            self._obey(decision, self.units[decision.device])

    def _obey(self, decision: Resume | Preempt | Split | Unsplit | Load | Evict, unit: Unit) -> None:
        match decision:
            case Resume(key) if key in unit.paused:
                unit.steps[key] = unit.paused.pop(key)
                self._touch(unit)
            case Preempt(key) if key in unit.steps:
                unit.paused[key] = unit.steps.pop(key)
                self._cut(unit)
            case Split(key, _, helper) if key in self.where and helper in self.units:
                self.units[helper].helps = key
                self.tasks[key].helpers.append(helper)
                self._cut(unit)
            case Unsplit(key, _, helper) if key in self.where and helper in self.tasks[key].helpers:
                self._part(self.tasks[key], unit, self.units[helper])
            case Load(component):
                self.load(unit, component)
            case Evict(component):
                self.drop(unit, component)
            case _:
                pass

    def cancel(self, key: OpKey) -> None:
        """An op is wanted no more: where it was preempted its state is dropped."""
        task = self.tasks.pop(key)
        unit = self.where.pop(key, None)
        if unit is not None:
            if unit.paused.pop(key, None) is not None:
                self._uncopy(unit, task)
            for helper in list(task.helpers):
                self._part(task, unit, self.units[helper])

    def load(self, unit: Unit, component: ComponentId) -> None:
        if component in unit.there:
            return
        part = self.catalogue.part(component)
        ready = max(self.host.fetch(component, self.now), unit.channel) + part.h2d
        unit.channel = max(unit.channel, ready)
        unit.there[component] = ready
        unit.nbytes += part.nbytes
        self.loaded += part.nbytes
        self.held += part.nbytes
        self.peak = max(self.peak, self.held)

    def drop(self, unit: Unit, component: ComponentId) -> None:
        if unit.there.pop(component, None) is not None:
            nbytes = self.catalogue.nbytes(component)
            unit.nbytes -= nbytes
            self.held -= nbytes

    def lose(self, id: DeviceId) -> None:
        """A device dies with all that it holds."""
        unit = self.units.pop(id)
        keys = [*unit.steps, *unit.paused, *(task.key for task in unit.wholes)]
        self.held -= unit.nbytes
        for key in keys:
            task = self.tasks[key]
            task.done, task.copy = 0, None
            del self.where[key]
            for helper in list(task.helpers):
                self._part(task, unit, self.units[helper])
        if unit.helps is not None and unit.helps in self.tasks:
            task = self.tasks[unit.helps]
            task.helpers.remove(id)
            self._cut(self.where[task.key])
        lost = tuple((key, self.tasks[key].attempt) for key in keys)
        self._reports.append(Lost(id, lost, next(self._count)))

    def restore(self, id: DeviceId, capacity: float) -> None:
        """A device is back, and holds nothing."""
        self.units[id] = Unit(id, capacity, version=next(self._count))

    def fail(self, key: OpKey) -> None:
        """A running op finds no memory."""
        unit, task = self.where.pop(key), self.tasks[key]
        unit.steps.pop(key, None)
        unit.paused.pop(key, None)
        if task in unit.wholes:
            unit.wholes.remove(task)
        for helper in list(task.helpers):
            self._part(task, unit, self.units[helper])
        task.done = 0
        self._uncopy(unit, task)
        self._reports.append(Failed(key, task.attempt))
        if unit.turn is not None and task in unit.turn.tasks:
            unit.turn.tasks.remove(task)
        self._cut(unit)

    # -- turns -----------------------------------------------------------------------------------

    def _run(self, run: Run) -> None:
        task, unit = self.tasks[run.key], self.units.get(run.device)
        task.attempt += 1
        task.copy = None
        if unit is None:
            self._reports.append(Failed(run.key, task.attempt))
            return
        for component in task.components:
            self.load(unit, component)
        if run.merge:
            self._copy(unit, task)
        self.where[task.key] = unit
        if task.kind == "step":
            unit.steps[task.key] = task
        else:
            unit.wholes.append(task)
        ready = self._ready_at(unit, task)
        if ready > self.now:
            self._wake(unit, ready)
        else:
            self._touch(unit)

    def _copy(self, unit: Unit, task: Task) -> None:
        """Set memory aside for weights with an op's LoRAs in them, which are made before its first pass."""
        task.copy, task.merge = ComponentId(f"{task.components[0]} merged for {task.key}"), True
        nbytes = self.catalogue.nbytes(task.components[0])
        unit.nbytes += nbytes
        self.held += nbytes
        self.peak = max(self.peak, self.held)

    def _uncopy(self, unit: Unit, task: Task) -> None:
        if task.copy is not None:
            task.copy = None
            nbytes = self.catalogue.nbytes(task.components[0])
            unit.nbytes -= nbytes
            self.held -= nbytes

    def _ready_at(self, unit: Unit, task: Task) -> Seconds:
        there = unit.there
        return max((there[c] for c in task.components), default=0.0)

    def _wake(self, unit: Unit, at: Seconds) -> None:
        heapq.heappush(self._events, (at, next(self._count), unit.id, -1))

    def _touch(self, unit: Unit) -> None:
        """Something may begin: at once, or at the next step boundary."""
        if unit.turn is None:
            self._begin(unit)
        else:
            self._cut(unit)

    def _cut(self, unit: Unit) -> None:
        """Let passes end at the next step boundary."""
        turn = unit.turn
        if turn is None:
            self._begin(unit)
        elif not turn.whole and turn.calls > 1:
            calls = max(1, ceil((self.now - turn.since) / turn.each - _TINY))
            if calls < turn.calls:
                turn.calls = calls
                self._schedule(unit)

    def _schedule(self, unit: Unit) -> None:
        assert unit.turn is not None
        unit.version += 1
        heapq.heappush(self._events, (unit.turn.until, next(self._count), unit.id, unit.version))

    def _begin(self, unit: Unit) -> None:
        now = self.now + _TINY
        if unit.free_at > now:
            self._wake(unit, unit.free_at)
            return
        if unit.wholes:
            for task in unit.wholes:
                if self._ready_at(unit, task) <= now:
                    self._begin_whole(unit, task)
                    return
        if unit.steps:
            tasks = [task for task in unit.steps.values() if self._ready_at(unit, task) <= now]
            if tasks:
                self._step(unit, tasks)

    def _step(self, unit: Unit, tasks: list[Task]) -> None:
        left = min(task.passes - task.done for task in tasks)
        seconds, before = self._pass(unit, tasks) * unit.slow, self._merge(tasks) * unit.slow
        unit.turn = Turn(tasks, self.now + before, seconds, min(CHUNK, left), False, before)
        self._schedule(unit)

    def _merge(self, tasks: list[Task]) -> Seconds:
        """What the copies take that are still to be made for a turn."""
        made = [task for task in tasks if task.merge]
        for task in made:
            task.merge = False
        return MERGE * len(made)

    def _begin_whole(self, unit: Unit, task: Task) -> None:
        tasks, seconds = [task], task.seconds
        if task.together is not None:
            tasks = [other for other in unit.wholes if other.batch == task.batch]
            seconds = task.together(tasks)
        unit.turn = Turn(tasks, self.now, seconds * unit.slow, 1, True)
        self._schedule(unit)

    def _pass(self, unit: Unit, tasks: list[Task]) -> Seconds:
        """One for all that step together."""
        catalogue, first = self.catalogue, tasks[0]
        rows, devices = sum(task.rows for task in tasks), 1
        if len(tasks) == 1:
            devices += len(first.helpers)
            rows = ceil(first.rows / first.parts) * ceil(first.parts / devices)
        component = first.components[0]
        seconds = catalogue.seconds(component, rows)
        nets: dict[ComponentId, int] = {}
        for task in tasks:
            for net in task.nets:
                nets[net] = nets.get(net, 0) + (rows if len(tasks) == 1 else task.rows)
        seconds += sum(catalogue.seconds(net, count) for net, count in nets.items())
        if any(task.taxed for task in tasks) and (len(tasks) > 1 or first.copy is None):
            seconds *= self.beside
        if devices == 1:
            return seconds
        slowest = max(self.units[h].slow / unit.slow for h in first.helpers)
        return seconds * max(1.0, slowest) + HANDOVER

    def _end(self, unit: Unit) -> None:
        turn = unit.turn
        assert turn is not None
        unit.turn = None
        seconds = turn.before + turn.calls * turn.each
        unit.busy += seconds
        rows = sum(task.rows for task in turn.tasks)
        for task in turn.tasks:
            part = seconds * (task.rows / rows) * (1 + len(task.helpers))
            task.spent += part
            self.served.append((turn.since - turn.before, self.now, task.user, part))
            if turn.whole:
                unit.wholes.remove(task)
                self._finish(task, unit)
                continue
            task.done += turn.calls
            if task.done >= task.passes and task.key in self.where:
                self._finish(task, unit)
            else:
                self._reports.append(Progress(task.key, task.done / task.passes))
        self._begin(unit)

    def _finish(self, task: Task, unit: Unit) -> None:
        unit.steps.pop(task.key, None)
        unit.paused.pop(task.key, None)
        self._uncopy(unit, task)
        for helper in list(task.helpers):
            self._part(task, unit, self.units[helper])
        del self.where[task.key], self.tasks[task.key]
        self._reports.append(Done(task.key, task.spent))

    def _part(self, task: Task, unit: Unit, helper: Unit) -> None:
        """A helper is free once the current pass is over."""
        task.helpers.remove(helper.id)
        helper.helps = None
        if unit.turn is not None and task in unit.turn.tasks:
            self._cut(unit)
            helper.free_at = unit.turn.until
        if helper.steps or helper.wholes:
            self._touch(helper)

    def working(self) -> Iterator[Unit]:
        return (unit for unit in self.units.values() if unit.turn is not None)
