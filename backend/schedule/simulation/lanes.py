"""Bookkeeping that the baselines share: what each device holds and runs, least recently used first."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from backend.schedule.pool import Decision, Evict, Load, Run
from backend.schedule.simulation.catalogue import Catalogue
from backend.schedule.simulation.fleet import Task
from backend.schedule.simulation.host import Host
from backend.schedule.simulation.policies import Device
from backend.types import ComponentId, DeviceId, OpKey, Seconds


@dataclass(slots=True, eq=False)
class Lane:
    """A device. held: components, the least recently used first, and when each is there. free_at: when what
    it runs is over.
    """

    id: DeviceId
    capacity: float
    held: OrderedDict[ComponentId, Seconds] = field(default_factory=OrderedDict)
    nbytes: float = 0.0
    running: dict[OpKey, Task] = field(default_factory=dict)
    free_at: Seconds = 0.0
    channel: Seconds = 0.0
    reserved: bool = False


class Lanes:
    """The devices of a policy; makes the decisions that a start needs."""

    def __init__(self, catalogue: Catalogue, host: Host, devices: Iterable[Device]) -> None:
        self.catalogue, self.host = catalogue, host
        self.all: dict[DeviceId, Lane] = {d.id: Lane(d.id, d.capacity) for d in devices}
        self._where: dict[OpKey, Lane] = {}

    def add(self, device: Device) -> None:
        self.all[device.id] = Lane(device.id, device.capacity)

    def remove(self, id: DeviceId) -> None:
        self.all.pop(id, None)

    @property
    def free(self) -> list[Lane]:
        return [lane for lane in self.all.values() if not lane.running and not lane.reserved]

    def holders(self, component: ComponentId) -> list[Lane]:
        return [lane for lane in self.all.values() if component in lane.held]

    def load_seconds(self, lane: Lane, components: Iterable[ComponentId], now: Seconds) -> Seconds:
        """Until all of them are there."""
        ready, channel = 0.0, max(0.0, lane.channel - now)
        for component in components:
            if component in lane.held:
                ready = max(ready, lane.held[component] - now)
            else:
                channel = max(channel, self.host.wait(component, now)) + self.catalogue.part(component).h2d
                ready = max(ready, channel)
        return ready

    def fits(self, lane: Lane, components: Iterable[ComponentId]) -> bool:
        return sum(self.catalogue.nbytes(c) for c in set(components)) <= lane.capacity

    def load(self, lane: Lane, components: Sequence[ComponentId], now: Seconds) -> list[Decision] | None:
        """Bring components in, dropping what nothing runs with; None where there is no room."""
        missing = [c for c in dict.fromkeys(components) if c not in lane.held]
        need = sum(self.catalogue.nbytes(c) for c in missing) - (lane.capacity - lane.nbytes)
        used = {c for task in lane.running.values() for c in task.components} | set(components)
        out: list[Decision] = []
        victims = [c for c in lane.held if c not in used]
        while need > 0:
            if not victims:
                return None
            victim = victims.pop(0)
            need -= self.catalogue.nbytes(victim)
            out.append(Evict(victim, lane.id, "least recently used"))
        for decision in out:
            assert isinstance(decision, Evict)
            del lane.held[decision.component]
            lane.nbytes -= self.catalogue.nbytes(decision.component)
        for component in components:
            if component in missing:
                at = (
                    max(now + self.host.wait(component, now), lane.channel)
                    + self.catalogue.part(component).h2d
                )
                lane.channel = lane.held[component] = at
                lane.nbytes += self.catalogue.nbytes(component)
                out.append(Load(component, lane.id, "needed"))
                missing.remove(component)
            lane.held.move_to_end(component)
        return out

    def start(
        self, lane: Lane, tasks: Sequence[Task], now: Seconds, seconds: Callable[[], Seconds]
    ) -> list[Decision] | None:
        """Run ops of one batch on a free device; None where their weights find no room."""
        components = list(dict.fromkeys(c for task in tasks for c in task.components))
        wait = self.load_seconds(lane, components, now)
        decisions = self.load(lane, components, now)
        if decisions is None:
            return None
        for task in tasks:
            lane.running[task.key] = task
            self._where[task.key] = lane
            decisions.append(Run(task.key, lane.id, "its turn"))
        lane.free_at = now + wait + seconds()
        return decisions

    def done(self, key: OpKey) -> Lane | None:
        lane = self._where.pop(key, None)
        if lane is not None:
            lane.running.pop(key, None)
        return lane
