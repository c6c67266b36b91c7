"""plan(): what each device does next, and why. Pure: the same pool and time give the same decisions."""

from dataclasses import dataclass, field

from backend.schedule.pool import Decision, Device, Pool, ReadyOp, Run
from backend.types import ComponentId, DeviceId


@dataclass(slots=True)
class _Load:
    """A device while plan() fills it. held_for: the batch of an older op that waits for it to drain."""

    device: Device
    running: list[ReadyOp]
    resident: set[ComponentId]
    whole: int = 0
    rows: int = 0
    batch: str | None = None
    alone: bool = False
    held_for: str | None = None
    serial: bool = False

    def take(self, op: ReadyOp) -> None:
        self.running.append(op)
        self.resident.update(op.components)
        self.alone = self.alone or op.alone
        self.serial = self.serial or op.serial
        if op.kind == "step":
            self.rows += op.rows
            self.batch = op.batch
        else:
            self.whole += 1

    @property
    def full(self) -> bool:
        if self.alone:
            return True
        no_whole = self.whole >= self.device.slots
        return no_whole if self.device.kind == "host" else no_whole and self.rows >= self.device.max_rows


@dataclass(slots=True)
class _Plan:
    loads: dict[DeviceId, _Load]
    decisions: list[Decision] = field(default_factory=list)

    def run(self, op: ReadyOp, load: _Load, reason: str) -> None:
        load.take(op)
        self.decisions.append(Run(op.key, load.device.id, reason))


def plan(pool: Pool) -> list[Decision]:
    """What starts now, oldest job first.

    An op goes where its weights are, else to the device with the least to do. Step ops join a running batch
    of the same denoiser up to the device's rows; a device that an older op of another denoiser waits for
    takes no more joiners, so nobody is starved by a stream of equal jobs.
    """
    state = _Plan({device.id: _load(device) for device in pool.devices})
    hosts = [load for load in state.loads.values() if load.device.kind == "host"]
    workers = [load for load in state.loads.values() if load.device.kind == "worker"]
    for op in pool.calls:
        if all(load.full for load in hosts):
            break
        _place_call(op, hosts, state)
    for op in pool.ready:
        if all(load.full for load in workers):
            break
        _place_model_op(op, workers, state)
    return state.decisions


def _load(device: Device) -> _Load:
    load = _Load(device, [], set(device.resident))
    for op in device.running:
        load.take(op)
    return load


def _place_call(op: ReadyOp, hosts: list[_Load], state: _Plan) -> None:
    for load in hosts:
        if load.full or (op.serial and load.serial):
            continue
        state.run(op, load, "a host thread is free")
        return


def _place_model_op(op: ReadyOp, workers: list[_Load], state: _Plan) -> None:
    fitting = [load for load in workers if _fits(op, load)]
    if fitting:
        best = min(fitting, key=lambda load: _cost(op, load))
        state.run(op, best, _reason(op, best))
    elif op.kind == "step":
        _hold(op, workers)


def _fits(op: ReadyOp, load: _Load) -> bool:
    if load.alone or (op.alone and load.running):
        return False
    if op.kind == "whole":
        return load.whole < load.device.slots
    if load.rows == 0:
        return load.held_for in (None, op.batch)
    return load.batch == op.batch and load.held_for is None and load.rows + op.rows <= load.device.max_rows


def _cost(op: ReadyOp, load: _Load) -> tuple[int, int, int, str]:
    """Smaller is better: weights to bring, then work already there. The id makes ties deterministic."""
    missing = sum(component not in load.resident for component in op.components)
    return missing, load.rows, load.whole, load.device.id


def _reason(op: ReadyOp, load: _Load) -> str:
    if op.kind == "step" and load.rows:
        return f"joins a batch of {load.rows} rows of the same denoiser"
    if all(component in load.resident for component in op.components):
        return "its weights are resident there"
    return "the device with the least to do; its weights are loaded there"


def _hold(op: ReadyOp, workers: list[_Load]) -> None:
    """Keep the device that will be free first for this op, unless one is being kept already."""
    if any(load.held_for == op.batch for load in workers):
        return
    free = [load for load in workers if load.held_for is None and load.batch != op.batch]
    if free:
        min(free, key=lambda load: (load.rows, load.device.id)).held_for = op.batch
