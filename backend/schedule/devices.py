"""The devices as the schedule sees them, with indexes that answer "where could this run" without a search."""

from bisect import insort
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from math import inf
from typing import Literal

from backend.schedule.pool import ReadyOp
from backend.types import ComponentId, DeviceId, OpKey, Part, Seconds

LOOK = 16  # devices that one question looks at: enough choice, and a bound on its cost


@dataclass(slots=True)
class Held:
    """A component on a device. used: when an op last needed it; known: the device has confirmed it. ready:
    when it is expected to be there.
    """

    nbytes: float
    used: Seconds
    known: bool = False
    ready: Seconds = 0.0


@dataclass(slots=True)
class Running:
    """An op on a device.

    charged: seconds charged to its user since it started or resumed; paid: before that. begun, done: the
    fractions of it that were over then, and are now. helpers: devices that compute parts of its passes;
    aside: one that computes its ControlNets. mark: when `done` was last known. copy: of the weights with its
    LoRAs in them, as the device holds it.
    """

    op: ReadyOp
    since: Seconds
    charged: Seconds
    begun: float = 0.0
    done: float = 0.0
    paid: Seconds = 0.0
    helpers: list[DeviceId] = field(default_factory=list)
    mark: Seconds = 0.0
    copy: ComponentId | None = None
    aside: DeviceId | None = None

    @property
    def lent(self) -> list[DeviceId]:
        """All devices that compute for it."""
        return [*self.helpers, *([] if self.aside is None else [self.aside])]

    @property
    def left(self) -> Seconds:
        """Charged for what is still to be done."""
        return self.charged * (1 - self.done) / (1 - self.begun) if self.begun < 1 else 0.0


@dataclass(slots=True, eq=False)
class Device:
    """slots: host or whole ops at once; max_rows: of a step batch; capacity: bytes for weights.

    paused: ops that were preempted; their state and weights stay here. helps: the op of another device that
    it computes parts of, until it is needed itself. channel: until when it is expected to load.
    """

    id: DeviceId
    kind: Literal["host", "worker"]
    slots: int
    max_rows: int = 0
    capacity: float = inf
    held: dict[ComponentId, Held] = field(default_factory=dict)
    running: dict[OpKey, Running] = field(default_factory=dict)
    paused: dict[OpKey, Running] = field(default_factory=dict)
    pins: Counter[ComponentId] = field(default_factory=Counter)
    nbytes: float = 0.0
    whole: int = 0
    rows: int = 0
    batch: str | None = None
    alone: int = 0
    serial: int = 0
    helps: Running | None = None
    channel: Seconds = 0.0

    @property
    def free(self) -> float:
        return self.capacity - self.nbytes

    @property
    def open_slot(self) -> bool:
        return self.whole < self.slots and not self.alone

    @property
    def stepping(self) -> bool:
        return self.rows > 0

    def missing(self, components: Iterable[ComponentId]) -> list[ComponentId]:
        return [component for component in components if component not in self.held]

    def left(self) -> Seconds:
        """Until the last of the running step ops ends, if nobody joins."""
        left = 0.0
        for running in self.running.values():
            if running.op.kind == "step" and running.left > left:
                left = running.left
        return left

    def count(self, op: ReadyOp, sign: int) -> None:
        """An op starts (1) or stops (-1) taking part."""
        self.alone += sign * op.alone
        self.serial += sign * op.serial
        if op.kind == "step":
            self.rows += sign * op.rows
            self.batch = op.batch if self.rows else None
        else:
            self.whole += sign


Ids = dict[DeviceId, None]  # a set that keeps its order, so that equal histories decide equally


class Devices:
    """idle: workers without steps; open: workers with a free slot; joining: workers with room in their batch,
    by batch; has: by component; blank: workers that hold nothing; roomy: workers by capacity, largest first;
    unused: workers that neither run nor help; dealt: running ops whose passes may be dealt out, and where.
    """

    def __init__(self) -> None:
        self.all: dict[DeviceId, Device] = {}
        self.hosts: dict[DeviceId, Device] = {}
        self.workers: dict[DeviceId, Device] = {}
        self.idle: Ids = {}
        self.open: Ids = {}
        self.joining: dict[str, Ids] = {}
        self.has: dict[ComponentId, Ids] = {}
        self.blank: Ids = {}
        self.roomy: list[DeviceId] = []
        self.unused: Ids = {}
        self.dealt: dict[OpKey, DeviceId] = {}

    @property
    def largest(self) -> float:
        return self.workers[self.roomy[0]].capacity if self.roomy else 0.0

    def __getitem__(self, id: DeviceId) -> Device:
        return self.all[id]

    def __contains__(self, id: DeviceId) -> bool:
        return id in self.all

    def add(self, device: Device) -> None:
        self.all[device.id] = device
        (self.hosts if device.kind == "host" else self.workers)[device.id] = device
        if device.kind == "worker":
            self.blank[device.id] = None
            insort(self.roomy, device.id, key=self._by_room)
        self._sort(device)

    def remove(self, id: DeviceId) -> Device:
        device = self.all[id]
        self.unhelp(device)
        for component in list(device.held):
            self.drop(device, component)
        if device.batch is not None:
            self._leave(device.batch, id)
        if device.kind == "worker":
            self.roomy.remove(id)
        for ids in (self.all, self.hosts, self.workers, self.idle, self.open, self.blank, self.unused):
            ids.pop(id, None)
        return device

    def start(self, device: Device, running: Running) -> None:
        old = device.batch
        device.running[running.op.key] = running
        if running.op.parts > 1 or running.op.controls:
            self.dealt[running.op.key] = device.id
        self.pin(device, running.op.components)
        self._count(device, running.op, 1, old)

    def stop(self, device: Device, key: OpKey, *, keep: bool = False) -> Running:
        """An op leaves the running ones. keep: it is preempted, and its weights stay in use."""
        running, old = device.running.pop(key), device.batch
        self.dealt.pop(key, None)
        for id in running.lent:
            self.unhelp(self.all[id])
        if keep:
            device.paused[key] = running
        else:
            self.unpin(device, running.op.components)
        self._count(device, running.op, -1, old)
        return running

    def help(self, helper: Device, running: Running, part: Part = "calls") -> None:
        """A device with nothing to do computes parts of what another runs."""
        if part == "controls":
            running.aside = helper.id
        else:
            running.helpers.append(helper.id)
        helper.helps = running
        self.pin(helper, running.op.controls if part == "controls" else running.op.components)
        self._sort(helper)

    def unhelp(self, helper: Device) -> Running | None:
        """Returns: what the device helped with."""
        running, helper.helps = helper.helps, None
        if running is None:
            return None
        if running.aside == helper.id:
            running.aside = None
            self.unpin(helper, running.op.controls)
        else:
            running.helpers.remove(helper.id)
            self.unpin(helper, running.op.components)
        self._sort(helper)
        return running

    def pin(self, device: Device, components: Iterable[ComponentId]) -> None:
        for component in components:
            device.pins[component] += 1

    def unpin(self, device: Device, components: Iterable[ComponentId]) -> None:
        for component in components:
            device.pins[component] -= 1
            if not device.pins[component]:
                del device.pins[component]

    def hold(self, device: Device, component: ComponentId, held: Held) -> None:
        """A component is there, or will be when the device has carried out what it was told."""
        old = device.held.get(component)
        device.nbytes += held.nbytes - (old.nbytes if old else 0.0)
        device.held[component] = held
        self.has.setdefault(component, {})[device.id] = None
        self.blank.pop(device.id, None)

    def drop(self, device: Device, component: ComponentId) -> None:
        held = device.held.pop(component, None)
        if held is None:
            return
        device.nbytes = device.nbytes - held.nbytes if device.held else 0.0
        holders = self.has[component]
        holders.pop(device.id, None)
        if not holders:
            del self.has[component]
        if not device.held:
            self.blank[device.id] = None

    def holding(self, component: ComponentId, within: Mapping[DeviceId, object]) -> list[Device]:
        """Some devices of `within` that hold a component: the smaller set is walked."""
        holders = self.has.get(component, {})
        few, other = (holders, within) if len(holders) <= len(within) else (within, holders)
        return self._some(id for id in islice(few, 4 * LOOK) if id in other)

    def joinable(self, batch: str) -> list[Device]:
        """Some devices that run steps of that batch and have room for more."""
        return self._some(self.joining.get(batch, {}))

    def choice(self, within: Mapping[DeviceId, object]) -> list[Device]:
        """Some devices of `within`: the blank, the largest, and the first."""
        wide = chain(islice(self.blank, LOOK // 4), self.roomy[: LOOK // 4])
        ids = dict.fromkeys(chain((id for id in wide if id in within), islice(within, LOOK)))
        return [self.all[id] for id in ids]

    def _by_room(self, id: DeviceId) -> tuple[float, DeviceId]:
        return -self.all[id].capacity, id

    def _some(self, ids: Iterable[DeviceId]) -> list[Device]:
        return [self.all[id] for id in islice(ids, LOOK)]

    def __iter__(self) -> Iterator[Device]:
        return iter(self.all.values())

    def _count(self, device: Device, op: ReadyOp, sign: int, old: str | None) -> None:
        device.count(op, sign)
        if old is not None and old != device.batch:
            self._leave(old, device.id)
        if device.batch is not None:
            if device.rows < device.max_rows and not device.alone:
                self.joining.setdefault(device.batch, {}).setdefault(device.id)
            else:
                self._leave(device.batch, device.id)
        self._sort(device)

    def _leave(self, batch: str, id: DeviceId) -> None:
        ids = self.joining.get(batch)
        if ids is not None:
            ids.pop(id, None)
            if not ids:
                del self.joining[batch]

    def _sort(self, device: Device) -> None:
        if device.kind == "host":
            return
        _put(self.idle, device.id, not device.stepping and not device.alone)
        _put(self.open, device.id, device.open_slot)
        _put(self.unused, device.id, not device.running and device.helps is None)


def _put(ids: Ids, id: DeviceId, belongs: bool) -> None:
    if belongs:
        ids.setdefault(id)
    else:
        ids.pop(id, None)
