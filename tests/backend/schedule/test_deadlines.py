"""Jobs with a deadline go where they can still be in time, and leave each other some play."""

from dataclasses import replace

import pytest

from backend.schedule.policy import plan
from backend.schedule.pool import Preempt, Reject
from backend.schedule.rules import Rules
from backend.types import ComponentId, DeviceId, OpKey
from tests.backend.schedule.build import a_pool, a_profile, a_step, holds, of, starts, wait

LOADING = 4.0


def a_pair(*held: str):
    """Two devices: what the first holds, and `flux` on its way to the second."""
    pool = a_pool(2, profile=a_profile(load=LOADING))
    holds(pool, "gpu0", "sd15", *held)
    pool.fetch(pool.devices[DeviceId("gpu1")], ComponentId("flux"), 1.0, 0.0)
    return pool


def test_an_op_does_not_wait_for_weights_that_come_too_late_but_takes_a_device_that_has_them():
    pool = a_pair("flux")
    wait(pool, a_step("long", cost=20.0, path=20.0, deadline=100.0))
    decisions = wait(pool, a_step("hurried", "flux", order=1, cost=1.0, path=1.0, deadline=3.0))
    assert [d.key for d in of(Preempt, decisions)] == ["long"]
    assert starts(decisions) == {"hurried": "gpu0"}


def test_an_op_with_time_to_spare_waits_for_weights_that_are_on_their_way():
    pool = a_pair("flux")
    wait(pool, a_step("long", cost=20.0, path=20.0, deadline=100.0))
    assert starts(wait(pool, a_step("calm", "flux", order=1, cost=1.0, path=1.0, deadline=30.0))) == {
        "calm": "gpu1"
    }


def test_no_run_is_stopped_where_the_weights_would_come_too_late_behind_others():
    pool = a_pool(1, profile=a_profile(load=LOADING))
    holds(pool, "gpu0", "sd15")
    wait(pool, a_step("long", cost=20.0, path=20.0, deadline=100.0))
    pool.devices[DeviceId("gpu0")].channel = 3.0  # something else comes first
    hurried = a_step("hurried", "sdxl", order=1, cost=1.0, path=1.0, deadline=6.0)
    assert of(Preempt, wait(pool, hurried)) == []


def test_of_two_runs_the_one_with_shorter_passes_stops_for_an_op():
    pool = a_pool(2, rows=8)
    for device in ("gpu0", "gpu1"):
        holds(pool, device, "sd15", "sdxl", "flux")
    wait(pool, a_step("coarse", "sdxl", rows=8, cost=20.0, path=20.0, deadline=200.0))
    wait(pool, a_step("fine", "sd15", rows=1, order=1, cost=20.0, path=20.0, deadline=100.0))
    decisions = wait(pool, a_step("hurried", "flux", order=2, cost=1.0, path=1.0, deadline=3.0))
    assert [d.key for d in of(Preempt, decisions)] == ["fine"]


@pytest.mark.parametrize(("deadline", "shared"), [(1.5, False), (2.0, True)])
def test_a_batch_leaves_its_runs_some_play(deadline, shared):
    """With two more rows a run of 0.75 s takes 1.25: as long as nothing else happens on the device."""
    pool = a_pool(1)
    holds(pool, "gpu0", "sd15")
    wait(pool, a_step("first", deadline=deadline))
    assert ("second" in starts(wait(pool, a_step("second", order=1, deadline=60.0)))) == shared


def rushed(workers: int, **rules: bool):
    """A pool to which more came lately than it can do: what takes over 10 s goes last."""
    pool = a_pool(workers, rules=Rules(**rules))
    for number in range(workers):
        holds(pool, f"gpu{number}", "sd15", "sdxl")
    for number in range(60):
        pool.overload.defers(number, 10.0, 0.1, number / 10)
    assert pool.overload.limit <= 10.0
    pool.queue.haste.note(0.2)
    return pool


LARGE = {"rows": 8, "cost": 60.0, "path": 60.0, "deadline": 200.0}


def test_while_more_comes_than_can_be_done_the_largest_jobs_stop_for_all_others():
    pool = rushed(1)
    assert starts(wait(pool, a_step("large", **LARGE), now=6.0)) == {"large": "gpu0"}
    small = a_step("small", "sdxl", order=1, cost=9.0, path=9.0, deadline=500.0)
    decisions = wait(pool, small, now=7.0)
    assert [d.key for d in of(Preempt, decisions)] == ["large"]
    assert starts(decisions) == {"small": "gpu0"}


def test_without_that_rule_they_go_by_deadline():
    pool = rushed(1, defer=False)
    wait(pool, a_step("large", **LARGE), now=6.0)
    small = a_step("small", "sdxl", order=1, cost=9.0, path=9.0, deadline=500.0)
    assert starts(wait(pool, small, now=7.0)) == {}


def test_of_several_that_go_last_the_one_with_least_left_is_first_and_none_is_refused_before_it_is_hopeless():
    pool = rushed(1)
    wait(pool, a_step("now", cost=9.0, path=9.0, rows=8, deadline=100.0), now=6.0)
    larger = a_step("larger", order=1, **{**LARGE, "cost": 80.0, "path": 80.0, "deadline": 150.0})
    assert wait(pool, larger, a_step("large", order=2, **LARGE), now=6.0) == []
    pool.done(OpKey("now"), 9.0)
    assert starts(wait(pool, now=15.0)) == {"large": "gpu0"}
    assert [d.key for d in of(Reject, wait(pool, now=71.0))] == ["larger"]


def test_a_quarter_of_the_devices_starts_no_long_passes_of_what_goes_last():
    pool = rushed(4)
    large = [a_step(f"large{n}", order=n, alone=True, **LARGE) for n in range(4)]
    assert len(starts(wait(pool, *large, now=6.0))) == 3
    assert starts(wait(pool, a_step("small", order=9, deadline=8.0), now=7.0)) == {"small": "gpu3"}


def test_short_passes_of_what_goes_last_take_every_device():
    pool = rushed(4)
    pool.queue.haste.value = 10.0
    large = [a_step(f"large{n}", order=n, alone=True, **LARGE) for n in range(4)]
    assert len(starts(wait(pool, *large, now=6.0))) == 4


def test_an_op_with_long_passes_leaves_the_last_devices_to_hurried_ones_while_it_has_time():
    pool = a_pool(4)
    for number in range(4):
        holds(pool, f"gpu{number}", "sd15")
    calm = [a_step(f"calm{n}", rows=8, order=n, alone=True, cost=5.0, path=5.0) for n in range(4)]
    calm = [replace(op, deadline=10.0) for op in calm]
    for op in calm:
        pool.add(op, 0.0)
    pool.queue.haste.value = 0.2
    assert len(starts(plan(pool, 0.0))) == 3
    assert len(starts(plan(pool, 3.9))) == 0
    assert len(starts(plan(pool, 4.1))) == 1


def test_a_run_that_goes_last_stops_rather_than_one_that_could_just_wait():
    pool = rushed(2)
    wait(pool, a_step("due", rows=8, cost=9.0, path=9.0, deadline=60.0), now=6.0)
    assert starts(wait(pool, a_step("large", order=1, **LARGE), now=6.0)) == {"large": "gpu1"}
    hurried = a_step("hurried", "sdxl", order=2, deadline=8.0)
    assert [d.key for d in of(Preempt, wait(pool, hurried, now=7.0))] == ["large"]
