"""Who waits for whom, on a virtual clock: the simulation takes each decision as a device would."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.schedule.fairness import Shares
from backend.schedule.pool import Preempt
from backend.types import ComponentId
from tests.backend.schedule.build import STEPS, Simulation, a_pool, a_profile, a_step, holds

STEP = 0.075  # seconds of a pass for one op
SERVICE = STEP * STEPS
LOAD = 1.0


def jobs(user: str, count: int, model: str, first: int = 0, **more: object) -> list:
    given = {"user": user, "cost": SERVICE, "path": SERVICE, **more}
    return [a_step(f"{user}{i}", model, order=first + i, **given) for i in range(count)]


@settings(max_examples=60)
@given(
    st.sampled_from(["sd15", "flux"]),
    st.booleans(),
    st.sampled_from([2, 4, 8, 16, 32]),
    st.floats(0, 9),
    st.sampled_from([0.01, 1.0, 5.0]),
)
def test_two_jobs_behind_forty_of_another_user_end_within_twice_their_service(theirs, pays, rows, at, load):
    """... plus one step of what ran when they came, and one load."""
    simulation = Simulation(a_pool(rows=rows, profile=a_profile(pays=pays, load=load)))
    holds(simulation.pool, "gpu0", "sd15")
    service = simulation.pool.profile.step(ComponentId("sd15"), 2) * STEPS
    simulation.add(*jobs("a", 40, "sd15", cost=service, path=service))
    simulation.run(until=at)
    arrived = simulation.now
    simulation.add(*jobs("b", 2, theirs, first=40, cost=service, path=service))
    simulation.run()
    assert len(simulation.ended) == 42
    step = simulation.pool.profile.step(ComponentId("sd15"), rows)
    bound = 2 * (2 * service) + step + (load if theirs != "sd15" else 0.0)
    assert max(simulation.ended["b0"], simulation.ended["b1"]) - arrived <= bound


@pytest.mark.parametrize("theirs", ["sd15", "flux"])
def test_the_user_who_gives_way_loses_no_more_than_the_other_uses(theirs):
    def last_of_a(others: int) -> float:
        simulation = Simulation(a_pool(profile=a_profile(load=LOAD)))
        holds(simulation.pool, "gpu0", "sd15")
        simulation.add(*jobs("a", 40, "sd15"))
        simulation.run(until=2.0)
        simulation.add(*jobs("b", others, theirs, first=40))
        simulation.run()
        return max(end for key, end in simulation.ended.items() if key.startswith("a"))

    assert last_of_a(2) - last_of_a(0) <= 2 * SERVICE + LOAD


def test_users_of_one_device_receive_alike_however_many_jobs_they_queue():
    simulation = Simulation(a_pool(rows=2))
    simulation.add(*jobs("a", 60, "sd15"), *jobs("b", 30, "sd15", 60), *jobs("c", 15, "sd15", 90))
    simulation.run(until=30 * SERVICE + LOAD)
    ended = [sum(key.startswith(user) for key in simulation.ended) for user in "abc"]
    assert max(ended) - min(ended) <= 1


def test_a_stream_of_short_jobs_does_not_stop_a_long_one_for_ever():
    simulation = Simulation(a_pool(rows=2))
    holds(simulation.pool, "gpu0", "sd15", "flux")
    simulation.add(a_step("long", "flux", user="a", cost=STEP * STEPS * 2, path=9.0))
    for i in range(100):
        simulation.run(until=i * SERVICE)
        if "long" in simulation.ended:
            break
        simulation.add(a_step(f"b{i}", order=i + 1, user="b", cost=SERVICE, path=SERVICE))
    assert "long" in simulation.ended


def test_runs_are_not_stopped_again_and_again():
    simulation = Simulation(a_pool(rows=8))
    holds(simulation.pool, "gpu0", "sd15", "flux")
    for index, user in enumerate("abcdef"):
        simulation.add(*jobs(user, 10, "sd15" if index % 2 else "flux", first=index * 10))
    simulation.run()
    assert len(simulation.ended) == 60
    stops = sum(isinstance(d, Preempt) for _, d in simulation.decisions)
    assert stops <= 30
    assert simulation.now <= 36.0  # 15 full batches take 34 s


def test_nobody_saves_up_a_claim_by_being_away():
    shares = Shares()
    shares.enter("a")
    for _ in range(10):
        shares.start("a", 1.0)
        shares.advance("a", 1.0)
    assert shares.enter("b") == 9.0
    shares.start("b", 1.0)
    assert shares.tag("b") == shares.tag("a") == 10.0


def test_what_is_charged_ahead_is_no_start_for_those_who_come():
    shares = Shares()
    shares.enter("a")
    for _ in range(10):
        shares.start("a", 1.0)
    assert shares.enter("b") == 0.0


def test_what_was_charged_is_corrected_by_what_it_took():
    shares = Shares()
    shares.enter("a")
    shares.start("a", 4.0)
    shares.advance("a", 1.0)
    assert (shares.tag("a"), shares.served("a")) == (4.0, 1.0)
    shares.settle("a", 3.0, -3.0)  # cancelled after a quarter
    assert shares.tag("a") == shares.served("a") == 1.0
