"""Jobs of a live server on simulated devices with a measured profile, under the live `plan()`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from backend.schedule.pool import Reject
from backend.schedule.rules import Rules
from backend.schedule.simulation.catalogue import GIB, Catalogue, Part
from backend.schedule.simulation.fleet import Done, Fleet, Progress, Report, Task
from backend.schedule.simulation.host import Host
from backend.schedule.simulation.policies import Charted, Device, Micro
from backend.types import ComponentId, OpKey

CLIP, VAE = ComponentId("live.clip"), ComponentId("live.vae")


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds. passes: by rows; beside: how much longer with LoRAs; encode: of a text; rest: of everything
    else of a job.
    """

    passes: Mapping[int, float]
    beside: float
    encode: float
    rest: float


@dataclass(frozen=True, slots=True)
class Sd:
    """A job of the benchmark. model, lora: by number. runs: seed, steps, denoise of each sampler in turn."""

    text: str
    runs: tuple[tuple[int, int, float], ...]
    model: int = 0
    lora: int | None = None


@dataclass(frozen=True, slots=True)
class _Op:
    task: Task
    needs: tuple[OpKey, ...]


def predict(measured: Measured, jobs: Sequence[Sd], devices: int, max_rows: int) -> float:
    """Seconds until all are over that come at once. Equal ops of different jobs are one."""
    catalogue = Catalogue()
    curve = tuple(sorted(measured.passes.items()))
    for job in jobs:
        catalogue.add(Part(_denoiser(job), GIB, 0.0, 0.0, curve))
    for component, seconds in ((CLIP, measured.encode), (VAE, measured.rest)):
        catalogue.add(Part(component, GIB, 0.0, 0.0, ((1, seconds), (2, 2 * seconds))))
    ops: dict[OpKey, _Op] = {}
    for number, job in enumerate(jobs):
        ops.update({op.task.key: op for op in _ops(number, job, measured) if op.task.key not in ops})
    return _play(catalogue, ops, devices, max_rows, measured)


def _denoiser(job: Sd) -> ComponentId:
    return ComponentId(f"live.unet{job.model}")


def _ops(number: int, job: Sd, measured: Measured) -> Iterator[_Op]:
    """A job's ops, each under a key that says what it computes."""
    texts = tuple(OpKey(f"encode {job.lora} {text}") for text in (job.text, "negative"))
    for key in texts:
        yield _Op(Task(key, number, str(number), "whole", (CLIP,), seconds=measured.encode), ())
    before, needs = f"{job.model} {job.lora} {job.text}", texts
    for seed, steps, denoise in job.runs:
        key = OpKey(f"denoise {before} {seed}")
        task = Task(key, number, str(number), "step", (_denoiser(job),), _denoiser(job), 2, 2, steps)
        yield _Op(replace(task, taxed=job.lora is not None), (*needs, *texts))
        before, needs = f"{before} {seed} {denoise}", (key,)
    key = OpKey(f"decode {before}")
    yield _Op(Task(key, number, str(number), "whole", (VAE,), seconds=measured.rest), needs)


def _play(
    catalogue: Catalogue, ops: Mapping[OpKey, _Op], devices: int, max_rows: int, measured: Measured
) -> float:
    host = Host(catalogue, 64 * GIB)
    fleet = Fleet(catalogue, host, devices, 64 * GIB, beside=measured.beside)
    units = [Device(id, unit.capacity) for id, unit in fleet.units.items()]
    policy = Micro(Charted(catalogue, host), units, Rules(split=True, merge=False), max_rows)
    missing = {key: set(op.needs) for key, op in ops.items()}
    for unit in fleet.units.values():
        for component in {c for op in ops.values() for c in op.task.components}:
            fleet.load(unit, component)
        policy.pool.table(unit.id, {c: catalogue.nbytes(c) for c in unit.there}, 0.0)
    for key, op in ops.items():
        fleet.tasks[key] = op.task
        policy.pool.want(op.task.components, 1)
    ready = [key for key, needs in missing.items() if not needs]
    while True:
        for key in ready:
            task = ops[key].task
            cost = task.seconds or task.passes * catalogue.seconds(task.components[0], task.rows)
            policy.ready(task, cost, cost, fleet.now)
        for decision in policy.decide(fleet.now):
            assert not isinstance(decision, Reject)
            fleet.obey(decision)
        at = fleet.next_at
        if at is None:
            return fleet.now
        ready = _heard(policy, fleet.advance(at), missing, fleet.now)


def _heard(
    policy: Micro, reports: Sequence[Report], missing: Mapping[OpKey, set[OpKey]], now: float
) -> list[OpKey]:
    """Tell the policy. Returns: what is ready now."""
    ready = list[OpKey]()
    for report in reports:
        match report:
            case Progress(key, fraction):
                policy.progress(key, fraction, now)
            case Done(key, seconds):
                policy.done(key, seconds, now)
                for other, needs in missing.items():
                    if key in needs:
                        needs.discard(key)
                        ready += [other] * (not needs)
    return ready
