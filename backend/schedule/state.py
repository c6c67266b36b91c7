"""Pool: everything that `plan()` knows, kept up to date change by change instead of gathered at each call."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import inf
from typing import Literal

from backend.schedule.devices import Device, Devices, Held, Running
from backend.schedule.fairness import Shares
from backend.schedule.memory import worth_of
from backend.schedule.overload import Overload, Pace
from backend.schedule.pool import ReadyOp
from backend.schedule.profile import Profile
from backend.schedule.queue import Queue
from backend.schedule.rules import Rules
from backend.types import ComponentId, DeviceId, OpKey, Seconds

ARRIVAL = 60.0  # seconds in which a component that was sent for must arrive, else it counts as not there


class Pool:
    """The ready ops, the devices, and what users have received. Clocks are handed in as `now`.

    `plan()` enters what it decides; whoever carries that out reports what becomes of it. demand: ops that
    will need a component; cold: needed, and on no device; over: devices that hold more than they should;
    free_in: until devices have ended what they run, as far as `plan()` has worked that out in this call.
    late: ControlNets whose additions a pass needs in its middle only, as far as they were loaded once.
    """

    def __init__(self, profile: Profile | None = None, rules: Rules | None = None) -> None:
        self.profile = profile or Profile()
        self.rules = rules or Rules()
        self.shares = Shares()
        self.queue = Queue(self.shares, self.rules.deadlines)
        self.devices = Devices()
        self.demand: Counter[ComponentId] = Counter()
        self.overload, self.pace = Overload(), Pace()
        self.cold: dict[ComponentId, None] = {}
        self.over: dict[DeviceId, None] = {}
        self.free_in: dict[DeviceId, Seconds] = {}
        self.late: set[ComponentId] = set()
        self._where: dict[OpKey, DeviceId] = {}
        self._live: Counter[str] = Counter()

    # -- devices ---------------------------------------------------------------------------------

    def add_device(
        self,
        id: DeviceId,
        kind: Literal["host", "worker"],
        slots: int,
        max_rows: int = 0,
        capacity: float = inf,
    ) -> None:
        """capacity: bytes that its resident components may take."""
        self.devices.add(Device(id, kind, slots, max_rows, capacity))

    def remove_device(self, id: DeviceId) -> None:
        """A device is gone, with all that it ran and held."""
        device = self.devices[id]
        for key in [*device.running, *device.paused]:
            self.done(key)
        gone = self.devices.remove(id)
        self.over.pop(id, None)
        for component in gone.held:
            self._cool(component)

    def table(self, id: DeviceId, resident: Mapping[ComponentId, float], now: Seconds) -> None:
        """What a device says that it holds, in bytes."""
        if id not in self.devices:
            return
        device = self.devices[id]
        for component, held in list(device.held.items()):
            awaited = not held.known and (component in device.pins or now - held.used < ARRIVAL)
            if component not in resident and not awaited:
                self.drop(device, component)
        for component, nbytes in resident.items():
            known = device.held.get(component)
            self.hold(
                device, component, Held(nbytes, now if known is None else known.used, known=True, ready=now)
            )
            self.profile.observe_size(component, nbytes)
        if device.free < 0:
            self.over[id] = None

    # -- ops -------------------------------------------------------------------------------------

    def add(self, op: ReadyOp, now: Seconds) -> None:
        """An op is ready."""
        if op.deadline is not None and self.rules.defer:
            pace = self.pace.value * len(self.devices.workers)
            op = replace(op, deferred=self.overload.defers((op.user, op.order), op.path, pace, now))
        self._live[op.user] += 1
        self.queue.add(op, now)

    def remove(self, key: OpKey) -> None:
        """A ready op is wanted no more, or comes back changed. No effect on one that is not waiting."""
        if key in self.queue:
            self._gone(self.queue.remove(key).user)

    def progress(self, key: OpKey, fraction: float, now: Seconds | None = None) -> None:
        """So much of a running op is over."""
        running = self._running(key)
        if running is None or not running.done < fraction <= 1:
            return
        before = running.left
        running.done = fraction
        running.mark = inf if now is None else now
        self.shares.advance(running.op.user, before - running.left)

    def done(self, key: OpKey, seconds: Seconds | None = None) -> ReadyOp | None:
        """An op has left its device. seconds: what it took, None if it never ended. Returns: what it was."""
        id = self._where.pop(key, None)
        if id is None or id not in self.devices:
            return None
        device = self.devices[id]
        if key in device.paused:
            running = device.paused.pop(key)
            self.devices.unpin(device, running.op.components)
            self.remove(key)
            unserved = 0.0
        else:
            running = self.devices.stop(device, key)
            unserved = running.left
        if running.copy is not None:
            del device.pins[running.copy]
            self.drop(device, running.copy)
        paid = running.paid + running.charged
        user = running.op.user
        if seconds is not None and running.op.kind != "host":
            self.pace.note(paid, seconds)
        self.shares.settle(user, unserved, -unserved if seconds is None else seconds - paid)
        self.queue.rank(user)
        self._gone(user)
        return running.op

    def charge(self, user: str, seconds: Seconds) -> None:
        """Service outside of what was started here."""
        self.shares.settle(user, 0.0, seconds)
        self.queue.rank(user)

    @property
    def users(self) -> int:
        """Users with ops that wait or run."""
        return len(self._live)

    @property
    def may_split(self) -> bool:
        """Whether a device without work might help one that has."""
        return self.rules.split and bool(self.devices.unused and self.devices.dealt)

    def left(self, key: OpKey) -> Seconds | None:
        """Seconds that are left of a running op; None of any other."""
        running = self._running(key)
        return None if running is None or running.op.kind == "host" else running.left

    def where(self, key: OpKey) -> DeviceId:
        """The device of an op that runs or was preempted."""
        return self._where[key]

    def running(self, key: OpKey) -> bool:
        """Whether a device has it, running or preempted."""
        return key in self._where

    # -- what users want -------------------------------------------------------------------------

    def want(self, components: tuple[ComponentId, ...], sign: int) -> None:
        """One op more (1) or less (-1) that will need these components, now or later."""
        for component in components:
            self.demand[component] += sign
            if not self.demand[component]:
                del self.demand[component]
            self._cool(component)

    # -- what plan() enters ----------------------------------------------------------------------

    def start(
        self,
        op: ReadyOp,
        device: Device,
        sizes: Mapping[ComponentId, float],
        now: Seconds,
        merge: bool = False,
    ) -> None:
        """sizes: bytes of the components that the device has yet to load for it. merge: it gets a copy of its
        first with its LoRAs in it.
        """
        self.queue.remove(op.key)
        for component in op.components:
            held = device.held.get(component)
            if held is None:
                self.fetch(device, component, sizes[component], now)
            else:
                held.used = now
        before = device.paused.pop(op.key, None)
        if before is not None:
            self.devices.unpin(device, before.op.components)
            running = Running(op, now, op.cost, before.done, before.done, before.paid, copy=before.copy)
            self._gone(op.user)  # as one that waits
        else:  # what counted as waiting counts as running
            running = Running(op, now, 0.0 if op.kind == "host" else op.cost)
        running.mark = max([now, *(device.held[c].ready for c in op.components)])
        if merge:
            running.copy = ComponentId(f"{op.components[0]} merged for {op.key}")
            device.pins[running.copy] += 1
            self.hold(device, running.copy, Held(self.profile.nbytes(op.components[0]), now, ready=now))
        self._where[op.key] = device.id
        self.free_in.pop(device.id, None)
        self.devices.start(device, running)
        self.shares.start(op.user, running.charged)
        self.queue.rank(op.user, now)

    def pause(self, key: OpKey, now: Seconds) -> None:
        """A running op stops after its step and waits to be resumed where it is."""
        device = self.devices[self._where[key]]
        self.free_in.pop(device.id, None)
        running = self.devices.stop(device, key, keep=True)
        left = running.left
        self.shares.settle(running.op.user, left, -left)
        running.paid += running.charged - left
        running.charged = 0.0
        spent = running.op.cost - left
        op = replace(
            running.op, home=device.id, cost=left, path=max(0.0, running.op.path - spent), arrived=now
        )
        self.add(op, now)
        self.queue.rank(op.user)

    def fetch(self, device: Device, component: ComponentId, nbytes: float, now: Seconds) -> None:
        """A device is told to load a component."""
        device.channel = max(device.channel, now) + self.profile.load(component)
        self.hold(device, component, Held(nbytes, now, ready=device.channel))

    def worth(self, now: Seconds) -> Callable[[Device, ComponentId], float]:
        """What a component is worth where it is; the least goes when there must be room."""
        return worth_of(self.devices, self.profile.load, self.demand.__getitem__, now)

    def hold(self, device: Device, component: ComponentId, held: Held) -> None:
        self.devices.hold(device, component, held)
        self.cold.pop(component, None)

    def drop(self, device: Device, component: ComponentId) -> None:
        self.devices.drop(device, component)
        self._cool(component)

    # -- inside ----------------------------------------------------------------------------------

    def _running(self, key: OpKey) -> Running | None:
        id = self._where.get(key)
        return None if id is None else self.devices[id].running.get(key)

    def _gone(self, user: str) -> None:
        self._live[user] -= 1
        if not self._live[user]:
            del self._live[user]
            self.shares.leave(user)

    def _cool(self, component: ComponentId) -> None:
        """Keep `cold` the components that someone will need and no device holds."""
        if component in self.demand and component not in self.devices.has:
            self.cold[component] = None
        else:
            self.cold.pop(component, None)
