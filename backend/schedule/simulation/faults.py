"""Chaos with a seed: devices die, disks and devices slow down, messages come late or twice, clocks jump,
memory runs out; and what must hold nevertheless, checked after every decision.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from backend.schedule.simulate import Hardware, Outcome, Simulation
from backend.schedule.simulation.catalogue import Catalogue
from backend.schedule.simulation.fleet import Fleet, Progress, Report
from backend.schedule.simulation.lineup import OURS, maker
from backend.schedule.simulation.policies import Device
from backend.schedule.simulation.workload import PRESETS, Traffic, jobs
from backend.types import DeviceId, Seconds


class Broken(AssertionError):
    """A law does not hold. seed: replays it with `chaos(seed)`."""

    def __init__(self, seed: int, at: Seconds, what: str) -> None:
        self.seed, self.at = seed, at
        super().__init__(f"seed {seed}, {at:.3f} s: {what}")


_LATEST = 2.0  # seconds by which reports are late at most
_NEWS = 2.5  # who starts a device anew knows by then that it was lost


@dataclass(slots=True)
class Chaos:
    """Faults as they come; each ends after a while. gone: lost devices, and when they are back."""

    seed: int
    chance: random.Random
    capacity: float
    next_at: Seconds = 5.0
    gone: dict[DeviceId, Seconds] = field(default_factory=dict)
    mild_after: Seconds = 400.0
    late: float = 0.0

    def watch(self, simulation: Simulation) -> None:
        check(simulation, self.seed)
        for id in [id for id, back in self.gone.items() if back <= simulation.now]:
            del self.gone[id]
            simulation.fleet.restore(id, self.capacity)
            simulation.policy.restored(Device(id, self.capacity), simulation.clock)
        if simulation.now >= self.next_at:
            self.next_at = simulation.now + self.chance.expovariate(1 / 6)
            self._strike(simulation)

    def post(self, report: Report) -> tuple[Seconds, ...]:
        """Late, or twice; progress may get lost."""
        delay = self.chance.random() * self.late
        if isinstance(report, Progress) and self.chance.random() < 0.1:
            return ()
        return (delay, delay) if self.chance.random() < 0.1 else (delay,)

    def _strike(self, simulation: Simulation) -> None:
        fleet, chance = simulation.fleet, self.chance
        if simulation.now > self.mild_after:  # let what is left come to its end
            simulation.skew = max(0.0, simulation.skew)
            fleet.host.slow = 1.0
            return
        fault = chance.choice(("device", "slow device", "slow disk", "clock", "late", "memory"))
        running = [unit.id for unit in fleet.working()]
        if fault == "device" and len(fleet.units) > 1:
            id = chance.choice(sorted(fleet.units))
            self.gone[id] = simulation.now + max(_NEWS, chance.uniform(1, 60))
            fleet.lose(id)
        elif fault == "slow device" and fleet.units:
            fleet.units[chance.choice(sorted(fleet.units))].slow = chance.choice((1.0, 3.0, 10.0))
        elif fault == "slow disk":
            fleet.host.slow = chance.choice((1.0, 5.0, 20.0))
        elif fault == "clock":
            simulation.skew += chance.choice((-3.0, 5.0, 200.0))
        elif fault == "late":
            self.late = chance.choice((0.0, 0.05, _LATEST))
        elif fault == "memory" and running:
            unit = fleet.units[chance.choice(running)]
            keys = sorted([*unit.steps, *(task.key for task in unit.wholes)])
            if keys:
                fleet.fail(chance.choice(keys))
        simulation.send(fleet.take())


def chaos(seed: int) -> Outcome:
    """A short run under faults. Raises: Broken, with the seed, where a law does not hold."""
    chance = random.Random(seed)
    hardware = Hardware(devices=chance.choice((1, 2, 3, 5)), memory=chance.choice((48.0, 80.0)))
    preset = chance.choice(PRESETS)
    slo = chance.choice((2.0, 5.0, 1e3, float("inf")))
    traffic = Traffic(preset, hardware.devices * chance.uniform(0.05, 0.3), 60.0, seed, slo)
    catalogue = Catalogue(video_seconds=60.0)
    drawn = jobs(traffic, catalogue)
    faults = Chaos(seed, chance, hardware.capacity)
    simulation = Simulation(
        drawn, catalogue, hardware, maker(OURS, drawn), watch=faults.watch, post=faults.post
    )
    try:
        outcome = simulation.run()
    except Broken:
        raise
    except Exception as error:
        raise Broken(seed, simulation.now, f"{type(error).__name__}: {error}") from error
    if len(outcome.endings) != len(drawn):
        raise Broken(seed, simulation.now, "a job never ended")
    return outcome


def check(simulation: Simulation, seed: int) -> None:
    """The laws that hold at every moment. Raises: Broken for the first that does not."""
    for what in broken(simulation):
        raise Broken(seed, simulation.now, what)


def broken(simulation: Simulation) -> Iterator[str]:
    """What does not hold, of everything that runs or has ended."""
    yield from _broken_on_devices(simulation.fleet)
    yield from _broken_in_jobs(simulation)


def _broken_on_devices(fleet: Fleet) -> Iterator[str]:
    for unit in fleet.units.values():
        if unit.nbytes > unit.capacity + 1024:
            yield f"{unit.id} holds {unit.nbytes / 2**30:.1f} GiB"
        if len({task.batch for task in unit.steps.values()}) > 1:
            yield f"{unit.id} steps two batches at once"
        for key in (*unit.steps, *unit.paused, *(task.key for task in unit.wholes)):
            if fleet.where.get(key) is not unit:
                yield f"{key} is not where it runs"
            if any(component not in unit.there for component in fleet.tasks[key].components):
                yield f"{key} runs without its weights"


def _broken_in_jobs(simulation: Simulation) -> Iterator[str]:
    fleet = simulation.fleet
    for key in fleet.where:
        task = fleet.tasks[key]
        opened = simulation.open.get(task.job)
        if opened is not None and not opened.may_run(task):
            yield f"{key} runs before what it needs exists"
        if any(helper not in fleet.units or fleet.units[helper].helps != key for helper in task.helpers):
            yield f"{key}: a helper is not its own"
    if not simulation.open.keys().isdisjoint(simulation.endings.keys()):
        yield "a job has ended and is still open"
