"""Who is to blame when workers die."""

from hypothesis import given
from hypothesis import strategies as st

from backend.engine.deaths import DEATHS, MOST, SPAN, Deaths


def test_an_op_that_ends_every_worker_is_convicted_at_the_third():
    deaths = Deaths()
    for _ in range(DEATHS):
        assert not deaths.convicts("bad")
        deaths.add(["bad"], 0.0)
    assert deaths.convicts("bad")
    assert deaths.seen_by("bad") == DEATHS


def test_one_that_shared_its_first_worker_is_told_from_those_beside_it():
    deaths = Deaths()
    deaths.add(["bad", "good"], 0.0)
    deaths.forget("good")  # it ran alone next, and ended
    deaths.add(["bad"], 0.0)
    deaths.add(["bad"], 0.0)
    assert deaths.convicts("bad")
    assert not deaths.convicts("good")
    assert deaths.seen_by("good") == 0


def test_workers_that_die_without_an_op_as_often_as_with_it_speak_for_it():
    deaths = Deaths()
    for _ in range(MOST - 1):
        deaths.add(["unlucky"], 0.0)
        deaths.add(["another"], 0.0)
    assert not deaths.convicts("unlucky")
    deaths.add(["unlucky"], 0.0)
    assert deaths.convicts("unlucky")  # but not for ever


def test_what_others_died_of_shortly_before_speaks_for_an_op_too():
    deaths = Deaths()
    for second in range(DEATHS):
        deaths.add(["another"], float(second))
    for _ in range(DEATHS):
        deaths.add(["unlucky"], SPAN)
    assert not deaths.convicts("unlucky")
    for _ in range(DEATHS):
        deaths.add(["bad"], 3 * SPAN)
    assert deaths.convicts("bad")


@given(st.lists(st.sets(st.sampled_from("abc"))))
def test_no_op_is_given_up_before_its_third_death_nor_kept_after_its_ninth(history):
    deaths, counts = Deaths(), dict.fromkeys("abc", 0)
    for running in history:
        deaths.add(running, 0.0)
        for key in running:
            counts[key] += 1
        for key, count in counts.items():
            assert deaths.seen_by(key) == count
            if count < DEATHS:
                assert not deaths.convicts(key)
            if count >= MOST:
                assert deaths.convicts(key)
