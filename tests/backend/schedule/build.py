"""A pool on a virtual clock: ops take what the profile says, devices do what `plan()` tells them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from backend.schedule.policy import MOST, plan
from backend.schedule.pool import Decision, Evict, Load, Order, Preempt, ReadyOp, Reject, Resume, Run
from backend.schedule.profile import Cost, Profile
from backend.schedule.rules import Rules
from backend.schedule.state import Pool
from backend.types import ComponentId, DeviceId, OpKey

GIB = 1 << 30
STEPS = 10


def a_profile(pays: bool = True, load: float = 1.0, **sizes: float) -> Profile:
    """Denoisers whose pass takes 0.05 s for one row and half that for each more (pays=False: as much).

    sizes: GiB by component. load: seconds of each.
    """
    profile = Profile()
    for name in ("sd15", "sdxl", "flux", "vae", "clip", *sizes):
        component = ComponentId(name)
        profile.observe_size(component, sizes.get(name, 1.0) * GIB)
        profile.observe_load(component, load)
        more = 0.025 if pays else 0.05
        took(profile, name, {rows: 0.05 + more * (rows - 1) for rows in range(1, 33)})
    return profile


def took(profile: Profile, component: str, seconds: Mapping[int, float]) -> None:
    """Let passes have taken so long, often enough to be sure. seconds: by rows."""
    profile.restore(Cost("step", component, rows, value) for rows, value in seconds.items())


def a_step(key: str, model: str = "sd15", rows: int = 2, order: float = 0, **more: object) -> ReadyOp:
    op = ReadyOp(OpKey(key), "step", place(order), components=(ComponentId(model),), batch=model, rows=rows)
    return replace(op, **{"cost": 0.75, "path": 0.75, **more})


def a_whole(key: str, model: str = "vae", order: float = 0, **more: object) -> ReadyOp:
    op = ReadyOp(OpKey(key), "whole", place(order), components=(ComponentId(model),))
    return replace(op, **{"cost": 0.2, "path": 0.2, **more})


def a_call(key: str, order: float = 0, **more: object) -> ReadyOp:
    return replace(ReadyOp(OpKey(key), "host", place(order)), **more)


def place(order: float) -> Order:
    return order, int(order)


def a_pool(
    workers: int = 1,
    *,
    threads: int = 0,
    gib: float = 64,
    rows: int = 8,
    profile: Profile | None = None,
    rules: Rules | None = None,
) -> Pool:
    pool = Pool(profile or a_profile(), rules)
    if threads:
        pool.add_device(DeviceId("host"), "host", threads)
    for index in range(workers):
        pool.add_device(DeviceId(f"gpu{index}"), "worker", 1, rows, gib * GIB)
    return pool


def holds(pool: Pool, device: str, *components: str) -> None:
    """The device says what it holds."""
    sizes = {ComponentId(c): pool.profile.nbytes(ComponentId(c)) for c in components}
    pool.table(DeviceId(device), sizes, 0.0)


def wait(pool: Pool, *ops: ReadyOp, now: float = 0.0) -> list[Decision]:
    """Let ops be ready, and plan."""
    for op in ops:
        pool.add(op, now)
    return plan(pool, now)


def starts(decisions: list[Decision]) -> dict[str, str]:
    return {d.key: d.device for d in decisions if isinstance(d, Run)}


def of(kind: type, decisions: list[Decision]) -> list[Decision]:
    return [d for d in decisions if isinstance(d, kind)]


@dataclass
class Machine:
    """A device: steps left of what it runs, whole ops in their order, and when its current turn ends."""

    steps: dict[OpKey, int] = field(default_factory=dict)
    paused: dict[OpKey, int] = field(default_factory=dict)
    whole: list[OpKey] = field(default_factory=list)
    turn: tuple[OpKey, ...] = ()
    until: float | None = None
    loading: float = 0.0


@dataclass
class Simulation:
    """Devices that do what they are told. ended: when each op did; decisions: all, with their time."""

    pool: Pool
    now: float = 0.0
    ended: dict[str, float] = field(default_factory=dict)
    rejected: dict[str, float] = field(default_factory=dict)
    began: dict[str, float] = field(default_factory=dict)
    decisions: list[tuple[float, Decision]] = field(default_factory=list)
    machines: dict[DeviceId, Machine] = field(default_factory=dict)
    ops: dict[OpKey, ReadyOp] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.machines = {device.id: Machine() for device in self.pool.devices}

    def add(self, *ops: ReadyOp) -> None:
        for op in ops:
            self.ops[op.key] = op
            self.pool.add(replace(op, arrived=self.now), self.now)

    def plan(self) -> None:
        while True:
            decisions = plan(self.pool, self.now)
            for decision in decisions:
                self.decisions.append((self.now, decision))
                self._obey(decision)
            if len(decisions) < MOST:
                break
        for device in self.machines:
            self._go_on(device)

    def _obey(self, decision: Decision) -> None:
        machine = None if isinstance(decision, Reject) else self.machines[decision.device]
        match decision:
            case Run(key):
                assert key not in self.began, "an op ran twice"
                self.began[key] = self.now
                op = self.ops[key]
                machine.loading += sum(
                    self.pool.profile.load(c) for c in op.components if not self._known(decision.device, c)
                )
                if op.kind == "step":
                    machine.steps[key] = STEPS
                else:
                    machine.whole.append(key)
            case Preempt(key):
                machine.paused[key] = machine.steps.pop(key)
            case Resume(key):
                machine.steps[key] = machine.paused.pop(key)
            case Reject(key):
                self.rejected[key] = self.now
            case Load() | Evict():
                pass

    def _known(self, device: DeviceId, component: ComponentId) -> bool:
        """Whether it is there; from now on it is."""
        held = self.pool.devices[device].held[component]
        known, held.known = held.known, True
        return known

    def _go_on(self, device: DeviceId) -> None:
        """Begin the next turn: a whole op, or a pass of all that step."""
        machine = self.machines[device]
        if machine.until is not None:
            return
        if machine.whole:
            machine.turn = (machine.whole[0],)
            seconds = self.ops[machine.whole[0]].cost
        elif machine.steps:
            machine.turn = tuple(machine.steps)
            rows = sum(self.ops[key].rows for key in machine.steps)
            seconds = self.pool.profile.step(self.ops[machine.turn[0]].components[0], rows)
        else:
            return
        machine.until = self.now + seconds + machine.loading
        machine.loading = 0.0

    def step(self) -> bool:
        """Plan, and let time pass to the next end of a turn. Returns: whether anything runs."""
        self.plan()
        due = [(m.until, id) for id, m in self.machines.items() if m.until is not None]
        if not due:
            return False
        self.now, id = min(due)
        self._end_turn(self.machines[id])
        return True

    def _end_turn(self, machine: Machine) -> None:
        machine.until = None
        for key in machine.turn:
            if machine.whole and machine.whole[0] == key:
                machine.whole.pop(0)
                self._done(key)
                continue
            where = machine.steps if key in machine.steps else machine.paused
            where[key] -= 1
            self.pool.progress(key, (STEPS - where[key]) / STEPS)
            if not where[key]:
                del where[key]
                self._done(key)

    def _done(self, key: OpKey) -> None:
        self.ended[key] = self.now
        self.pool.done(key, self.ops[key].cost)

    def run(self, until: float = float("inf")) -> None:
        while self.now < until and self.step():
            pass
