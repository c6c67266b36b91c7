"""The paper's policy, as strong as it is described."""

from dataclasses import replace

from backend.schedule.pool import Reject, Run
from backend.schedule.simulate import Hardware, Simulation
from backend.schedule.simulation.catalogue import FAMILIES, GIB, Base, Catalogue
from backend.schedule.simulation.fleet import Task
from backend.schedule.simulation.host import Host
from backend.schedule.simulation.lineup import PAPER, maker
from backend.schedule.simulation.paper import Paper
from backend.schedule.simulation.policies import Device
from backend.schedule.simulation.workload import Traffic, jobs
from backend.types import ComponentId, DeviceId

ENCODER = ComponentId("clip_g.sdxl")


def test_encoders_of_several_jobs_are_one_call_on_the_device():
    """clip_g takes 6.9 ms for 2 rows, and 8.0 for 8."""
    catalogue = Catalogue()
    drawn = [job for job in jobs(Traffic("calm", 5.0, 60.0), catalogue) if job.base.family.name == "sdxl"]
    four = [replace(job, arrived=1.0, due=1e9) for job in drawn[:4]]
    simulation = Simulation(four, catalogue, Hardware(devices=1), maker(PAPER, four))
    simulation.fleet.load(simulation.fleet.units[DeviceId("gpu0")], ENCODER)
    simulation.run()
    calls = {(begin, end) for begin, end, _, _ in simulation.fleet.served if end - begin < 0.02}
    assert len(calls) < 8  # 4 jobs with 2 encoders each


def test_an_op_that_found_no_room_is_given_up_when_it_is_too_late():
    catalogue = Catalogue()
    policy = Paper(catalogue, Host(catalogue, 512 * GIB), [Device(DeviceId("gpu0"), 30 * GIB)])
    flux, other = Base(FAMILIES["flux-dev"]).denoiser, Base(FAMILIES["sd35l"]).denoiser
    lane = policy.lanes.all[DeviceId("gpu0")]
    first, second = (
        Task(f"{n}", n, "u", "step", (base,), batch=base, passes=30, due=20.0)
        for n, base in enumerate((flux, other))
    )
    policy.ready(first, 7.0, 7.5, 0.0)
    assert [d.key for d in policy.decide(0.0) if isinstance(d, Run)] == ["0"]
    policy.ready(second, 7.0, 7.5, 0.0)
    policy.decide(0.0)
    lane.running = {"x": first}  # its weights stay in use, though the device counts as free
    policy._start(lane, policy.next_up.pop(lane.id), 1.0)
    assert [d.key for d in policy.decide(15.0) if isinstance(d, Reject)] == ["1"]
