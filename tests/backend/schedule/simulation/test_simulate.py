"""The simulated fleet does what it is told, and equal seeds give equal outcomes."""

from dataclasses import replace

import pytest

from backend.schedule.pool import Preempt, Resume, Run, Split, Unsplit
from backend.schedule.simulate import Hardware, Simulation
from backend.schedule.simulation.catalogue import FAMILIES, GIB, Base, Catalogue
from backend.schedule.simulation.fleet import Done, Fleet, Task
from backend.schedule.simulation.host import Host
from backend.schedule.simulation.lineup import OURS, POLICIES, maker, patient, simulate
from backend.schedule.simulation.workload import PRESETS, Traffic, jobs

BASE = Base(FAMILIES["sdxl"]).denoiser
FOUR = Hardware(devices=4)


def a_fleet(devices: int = 2) -> Fleet:
    catalogue = Catalogue()
    fleet = Fleet(catalogue, Host(catalogue, 512 * GIB), devices, 70 * GIB)
    for unit in fleet.units.values():
        fleet.load(unit, BASE)
    fleet.now = 100.0
    return fleet


def a_task(fleet: Fleet, key: str, passes: int = 30, rows: int = 2) -> Task:
    task = Task(key, 0, "u", "step", (BASE,), batch=BASE, rows=rows, parts=rows, passes=passes)
    fleet.tasks[key] = task
    return task


def go_on(fleet: Fleet, until: float) -> None:
    while (at := fleet.next_at) is not None and at < until:
        fleet.advance(at)
    fleet.now = until


def finish(fleet: Fleet) -> dict[str, float]:
    """When each op is done."""
    out = {}
    while (at := fleet.next_at) is not None:
        out.update({r.key: fleet.now for r in fleet.advance(at) if isinstance(r, Done)})
    return out


def test_a_run_takes_its_passes_as_published():
    fleet = a_fleet()
    a_task(fleet, "a")
    fleet.obey(Run("a", "gpu0", ""))
    assert finish(fleet)["a"] == pytest.approx(100 + 30 * 0.054)


def test_two_runs_share_passes_that_cost_less_than_two():
    fleet = a_fleet()
    for key in "ab":
        a_task(fleet, key)
        fleet.obey(Run(key, "gpu0", ""))
    ended = finish(fleet)
    assert ended["b"] == pytest.approx(100 + 29 * 0.0889 + 2 * 0.054)  # one pass alone first, and one last
    assert ended["a"] < ended["b"]


def test_a_preempted_run_goes_on_where_it_stopped():
    fleet = a_fleet()
    a_task(fleet, "a")
    fleet.obey(Run("a", "gpu0", ""))
    go_on(fleet, 100.1)
    fleet.obey(Preempt("a", "gpu0", ""))
    while (at := fleet.next_at) is not None:
        fleet.advance(at)
    fleet.now = 200.0
    fleet.obey(Resume("a", "gpu0", ""))
    assert finish(fleet)["a"] == pytest.approx(200 + 28 * 0.054)


def test_a_split_run_ends_sooner_and_its_helper_is_free_after_the_step():
    fleet = a_fleet()
    task = a_task(fleet, "a")
    fleet.obey(Run("a", "gpu0", ""))
    fleet.obey(Split("a", "gpu0", "gpu1", ""))
    go_on(fleet, 100.5)
    fleet.obey(Unsplit("a", "gpu0", "gpu1", ""))
    assert task.helpers == []
    a_task(fleet, "b", passes=1)
    fleet.obey(Run("b", "gpu1", ""))
    ended = finish(fleet)
    assert 100.5 + 0.054 < ended["b"] < 100.5 + 0.054 + 0.043
    assert 100 + 30 * 0.042 < ended["a"] < 100 + 30 * 0.054


def test_weights_come_from_the_disk_once_and_from_host_memory_after_that():
    catalogue = Catalogue()
    fleet = Fleet(catalogue, Host(catalogue, 512 * GIB), 2, 70 * GIB)
    first, second = fleet.units.values()
    fleet.load(first, BASE)
    assert first.there[BASE] == pytest.approx(4.88 + 0.569)
    fleet.now = 10.0
    fleet.load(second, BASE)
    assert second.there[BASE] == pytest.approx(10.569)
    assert fleet.host.read_bytes == catalogue.nbytes(BASE)


@pytest.mark.parametrize("name", POLICIES)
def test_every_job_ends_under_every_policy(name):
    outcome = simulate(name, Traffic("busy_hour", 0.2, 120.0), FOUR)
    assert len(outcome.endings) == len(jobs(Traffic("busy_hour", 0.2, 120.0), Catalogue()))
    assert sum(ending.in_time for ending in outcome.endings) > 0.3 * len(outcome.endings)


@pytest.mark.parametrize("preset", PRESETS)
def test_equal_seeds_give_equal_outcomes(preset):
    first, second = (simulate(OURS, Traffic(preset, 0.3, 60.0, seed=3), FOUR) for _ in range(2))
    assert [(e.ended, e.left) for e in first.endings] == [(e.ended, e.left) for e in second.endings]
    other = simulate(OURS, Traffic(preset, 0.3, 60.0, seed=4), FOUR)
    assert [e.job for e in other.endings] != [e.job for e in first.endings]


def test_without_service_levels_nothing_is_refused():
    outcome = simulate(OURS, patient(Traffic("burst", 1.0, 60.0)), FOUR)
    assert all(ending.ended is not None for ending in outcome.endings)


def test_more_devices_serve_sooner():
    traffic = patient(Traffic("calm", 0.5, 120.0))
    few, many = (simulate(OURS, traffic, Hardware(devices=n)) for n in (4, 16))
    mean = [sum(e.ended - e.job.arrived for e in o.endings) / len(o.endings) for o in (few, many)]
    assert mean[1] < mean[0]


def test_a_policy_that_does_nothing_is_caught_starving_jobs():
    catalogue = Catalogue()
    drawn = jobs(Traffic("calm", 0.1, 60.0), catalogue)

    def idle(*args):
        policy = maker(OURS, drawn)(*args)
        policy.pool.queue.add = lambda op, now: None
        return policy

    with pytest.raises(AssertionError, match="starve"):
        Simulation([replace(job, due=1e9) for job in drawn], catalogue, FOUR, idle).run()
