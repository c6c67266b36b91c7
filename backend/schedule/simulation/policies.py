"""What a simulated policy is told and asked, and the one under test: the live `plan()` with its pool."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf
from typing import Protocol

from backend.schedule.policy import MOST, plan
from backend.schedule.pool import Decision, ReadyOp
from backend.schedule.profile import Profile
from backend.schedule.rules import Rules
from backend.schedule.simulation.catalogue import LORA_TAX, MERGE, Catalogue
from backend.schedule.simulation.fleet import Task
from backend.schedule.simulation.host import Host
from backend.schedule.simulation.workload import Job
from backend.schedule.state import Pool
from backend.types import ComponentId, DeviceId, OpKey, Seconds
from backend.values import frozen


@frozen
class Device:
    """A device at the start. capacity: bytes for weights."""

    id: DeviceId
    capacity: float


class Policy(Protocol):
    """whole: jobs come as one op each, a pipeline; else as the ops of their graph. merged: LoRAs are merged
    into the weights, which costs time but none per pass.
    """

    whole: bool
    merged: bool

    def arrive(self, job: Job, tasks: Iterable[Task], now: Seconds) -> None:
        """A job is accepted. tasks: its ops, in order, of which some must wait for others."""

    def ready(self, task: Task, cost: Seconds, path: Seconds, now: Seconds) -> None:
        """An op can run. cost: its seconds alone; path: the seconds of its job from here on."""

    def progress(self, key: OpKey, fraction: float, now: Seconds) -> None: ...

    def done(self, key: OpKey, seconds: Seconds | None, now: Seconds) -> None:
        """An op ended; None: it was lost, and is ready again later."""

    def gone(self, job: Job, tasks: Iterable[Task]) -> None:
        """A job was refused: its ops come no more."""

    def lost(self, device: DeviceId, now: Seconds) -> None: ...

    def restored(self, device: Device, now: Seconds) -> None: ...

    def decide(self, now: Seconds) -> list[Decision]: ...

    @property
    def waiting(self) -> int:
        """Ops that are ready and do not run."""


class Charted(Profile):
    """The profile of a server that has measured all, and knows what its host memory holds."""

    def __init__(self, catalogue: Catalogue, host: Host) -> None:
        super().__init__()
        self._catalogue, self._host, self.now = catalogue, host, 0.0

    def nbytes(self, component: ComponentId) -> float:
        return self._catalogue.nbytes(component)

    def exact(self, component: ComponentId) -> bool:
        return True

    def load(self, component: ComponentId) -> Seconds:
        return self._catalogue.part(component).h2d + self._host.wait(component, self.now)

    def step(self, component: ComponentId, rows: int) -> Seconds:
        return self._catalogue.seconds(component, rows)

    def beside(self, component: ComponentId) -> float:
        return LORA_TAX - 1

    def merging(self, component: ComponentId) -> Seconds:
        return MERGE


@dataclass(slots=True)
class Micro:
    """The live `plan()`, told what a board would tell it."""

    profile: Charted
    devices: Iterable[Device]
    rules: Rules = field(default_factory=lambda: Rules(split=True))
    max_rows: int = 16
    whole: bool = False
    merged: bool = False
    pool: Pool = field(init=False)

    def __post_init__(self) -> None:
        self.pool = Pool(self.profile, self.rules)
        for device in self.devices:
            self.restored(device, 0.0)

    def arrive(self, job: Job, tasks: Iterable[Task], now: Seconds) -> None:
        for task in tasks:
            self.pool.want(task.components, 1)

    def ready(self, task: Task, cost: Seconds, path: Seconds, now: Seconds) -> None:
        self.pool.add(
            ReadyOp(
                key=task.key,
                kind=task.kind,
                order=(float(task.job), task.job),
                arrived=now,
                components=task.components,
                batch=task.batch if task.kind == "step" else None,  # others run one by one
                rows=task.rows,
                user=task.user,
                cost=cost,
                path=path,
                deadline=task.due if task.due < inf else None,
                parts=task.parts,
                adapted=task.taxed,
            ),
            now,
        )

    def progress(self, key: OpKey, fraction: float, now: Seconds) -> None:
        self.pool.progress(key, fraction, now)

    def done(self, key: OpKey, seconds: Seconds | None, now: Seconds) -> None:
        op = self.pool.done(key, seconds)
        if op is not None and seconds is not None:
            self.pool.want(op.components, -1)

    def gone(self, job: Job, tasks: Iterable[Task]) -> None:
        for task in tasks:
            self.pool.done(task.key)
            self.pool.remove(task.key)
            self.pool.want(task.components, -1)

    def lost(self, device: DeviceId, now: Seconds) -> None:
        if device in self.pool.devices:
            self.pool.remove_device(device)

    def restored(self, device: Device, now: Seconds) -> None:
        self.pool.add_device(device.id, "worker", 1, self.max_rows, device.capacity)

    def decide(self, now: Seconds) -> list[Decision]:
        self.profile.now = now
        decisions: list[Decision] = []
        while True:
            made = plan(self.pool, now)
            decisions += made
            if len(made) < MOST:
                return decisions

    @property
    def waiting(self) -> int:
        return len(self.pool.queue)
