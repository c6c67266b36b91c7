"""Jobs with a deadline go where they can still be in time, and leave each other some play."""

import pytest

from backend.schedule.pool import Preempt, Reject
from backend.schedule.rules import Rules
from backend.types import ComponentId, DeviceId
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


def test_nothing_is_refused_while_those_in_haste_could_wait_for_all_that_waits():
    pool = a_pool(2, rules=Rules(admit=True))
    for number in range(40):
        pool.admission.takes(number, 50.0, 1.0, number / 10)
    assert pool.admission.limit < 60.0
    large = {"rows": 8, "cost": 60.0, "path": 60.0, "deadline": 80.0}  # 16 s to spare
    assert of(Reject, wait(pool, a_step("large", **large), now=4.0)) == []
    for number in range(2):  # one finds a device, one waits
        wait(pool, a_step(f"other{number}", rows=8, cost=40.0, path=40.0), now=4.0)
    (reject,) = of(Reject, wait(pool, a_step("larger", order=9, **large), now=4.0))
    assert (reject.key, reject.cause) == ("larger", "deadline")
