"""Every policy that can be simulated, by the name that reports use."""

from collections.abc import Callable, Sequence
from dataclasses import replace

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
ALL = Rules(split=True, copies=True, admit=True)


def maker(name: str, traffic: Sequence[Job], rules: Rules = ALL) -> Make:
    """What builds a policy. traffic: what a static partition is made for."""
    makers: dict[str, Callable[[Sequence[Job]], Make]] = {
        OURS: lambda _: lambda c, h, d: Micro(Charted(c, h), d, rules),
        PAPER: lambda _: lambda c, h, d: Paper(c, h, d),
        "static partition": lambda js: lambda c, h, d: Static(c, h, d, work=work_by_pipeline(js, c)),
        "one pipeline each": lambda js: (
            lambda c, h, d: Static(c, h, d, work=work_by_pipeline(js, c), packed=False)
        ),
        "swap anywhere": lambda _: lambda c, h, d: Swap(c, h, d),
        "groups": lambda js: lambda c, h, d: Groups(c, h, d, work=work_by_pipeline(js, c)),
        "one queue each": lambda _: lambda c, h, d: OneQueueEach(c, h, d),
    }
    return makers[name](traffic)


def simulate(name: str, traffic: Traffic, hardware: Hardware, rules: Rules = ALL) -> Outcome:
    """One run. A static partition is the better of two: pipelines packed, or one on each device."""
    catalogue = Catalogue()
    drawn = jobs(traffic, catalogue)
    names = (name, "one pipeline each") if name == "static partition" else (name,)
    outcomes = [Simulation(drawn, catalogue, hardware, maker(n, drawn, rules)).run() for n in names]
    return max(outcomes, key=lambda outcome: sum(ending.in_time for ending in outcome.endings))


def patient(traffic: Traffic) -> Traffic:
    """The same without service levels: nothing is refused."""
    return replace(traffic, slo=float("inf"))
