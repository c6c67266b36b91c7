"""Every policy that can be simulated, by the name that reports use."""

from collections.abc import Sequence
from dataclasses import replace
from math import inf

from backend.schedule.rules import Rules
from backend.schedule.simulate import Hardware, Make, Outcome, Simulation
from backend.schedule.simulation.catalogue import Catalogue
from backend.schedule.simulation.paper import Paper
from backend.schedule.simulation.pipelines import Groups, OneQueueEach, Static, Swap, work_by_pipeline
from backend.schedule.simulation.policies import Charted, Micro
from backend.schedule.simulation.workload import Job, Traffic, jobs

OURS, PAPER = "tessera", "micro-serving paper"
PIPELINES = ("static partition", "swap anywhere", "groups", "one queue each")
POLICIES = (OURS, PAPER, *PIPELINES)
_ALONE, _REFUSING = "one pipeline each", ", refusing"
ALL = Rules(split=True)


def maker(name: str, traffic: Sequence[Job], rules: Rules = ALL) -> Make:
    """What builds a policy. traffic: what a static partition is made for."""
    kind, refuses = name.removesuffix(_REFUSING), name.endswith(_REFUSING)
    makers: dict[str, Make] = {
        OURS: lambda c, h, d: Micro(Charted(c, h), d, rules),
        PAPER: lambda c, h, d: Paper(c, h, d),
        "static partition": lambda c, h, d: Static(
            c, h, d, work=work_by_pipeline(traffic, c), refuses=refuses
        ),
        _ALONE: lambda c, h, d: Static(
            c, h, d, work=work_by_pipeline(traffic, c), packed=False, refuses=refuses
        ),
        "swap anywhere": lambda c, h, d: Swap(c, h, d, refuses=refuses),
        "groups": lambda c, h, d: Groups(c, h, d, work=work_by_pipeline(traffic, c), refuses=refuses),
        "one queue each": lambda c, h, d: OneQueueEach(c, h, d),
    }
    return makers[kind]


def variants(name: str) -> tuple[str, ...]:
    """The ways to run a policy, of which each figure is the best: whether whole pipelines also refuse the
    largest jobs while more comes than can be done; a static partition with pipelines packed, or one on each
    device.
    """
    if name in (OURS, PAPER, "one queue each"):
        return (name,)
    kinds = (name, _ALONE) if name == "static partition" else (name,)
    return tuple(kind + end for kind in kinds for end in (_REFUSING, ""))  # what mostly bears more first


def simulate(name: str, traffic: Traffic, hardware: Hardware, rules: Rules = ALL) -> Outcome:
    """One run: the best of the policy's variants."""
    catalogue = Catalogue()
    drawn = jobs(traffic, catalogue)
    names = variants(name)
    if traffic.slo == inf:
        names = tuple(n for n in names if not n.endswith(_REFUSING))  # nothing is due
    outcomes = [Simulation(drawn, catalogue, hardware, maker(n, drawn, rules)).run() for n in names]
    return max(outcomes, key=lambda outcome: sum(ending.in_time for ending in outcome.endings))


def patient(traffic: Traffic) -> Traffic:
    """The same without service levels: nothing is refused."""
    return replace(traffic, slo=float("inf"))
