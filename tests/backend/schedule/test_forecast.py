"""Estimates of when jobs end: a fluid picture, corrected by how wrong it was."""

import pytest

from backend.schedule.forecast import Backlog, Forecaster, fluid
from backend.schedule.simulate import Hardware
from backend.schedule.simulation.figures import forecasts_made
from backend.schedule.simulation.workload import Traffic


def a_job(user: str = "a", order: float = 0, work: float = 10.0, path: float = 0.0) -> Backlog:
    return Backlog(user, (order, order), work, path)


def test_jobs_of_one_user_end_in_their_order():
    assert fluid({"second": a_job(order=1), "first": a_job(order=0)}, 1) == {"first": 10, "second": 20}


def test_users_share_the_devices_evenly():
    ends = fluid({"a0": a_job(), "a1": a_job(order=1), "b": a_job("b", order=2)}, 1)
    assert ends == {"a0": 20, "b": 20, "a1": 30}


def test_no_job_ends_before_its_longest_path():
    assert fluid({"a": a_job(work=10, path=10)}, 8) == {"a": 10}


def test_devices_share_what_many_want():
    assert fluid({f"{i}": a_job(f"u{i}") for i in range(8)}, 4)["7"] == pytest.approx(20)


def test_without_jobs_there_is_nothing_to_say():
    assert fluid({}, 4) == {}


def test_an_estimate_without_former_jobs_says_that_it_is_a_guess():
    forecast = Forecaster().forecast(10.0)
    assert not forecast.known
    assert forecast.low < forecast.seconds < forecast.high


def test_what_former_jobs_took_corrects_the_estimate():
    forecaster = Forecaster()
    for number in range(100):
        forecaster.learn(10.0, 15.0 + (number % 11))
    forecast = forecaster.forecast(20.0)
    assert forecast.known
    assert forecast.seconds == pytest.approx(40.0)
    assert (forecast.low, forecast.high) == pytest.approx((32.0, 48.0), abs=0.3)


def test_only_the_latest_jobs_count():
    forecaster = Forecaster()
    for took in [100.0] * 300 + [10.0] * 200:
        forecaster.learn(10.0, took)
    assert forecaster.forecast(10.0).high == pytest.approx(10.0)


@pytest.mark.parametrize("preset", ["calm", "busy_hour"])
def test_in_the_simulation_most_jobs_end_within_the_interval(preset):
    made = forecasts_made(Traffic(preset, 0.35, 1500.0), Hardware(devices=4))
    known = [(forecast, took) for forecast, took in made if forecast.known]
    inside = sum(f.low <= took <= f.high for f, took in known) / len(known)
    assert len(known) > 300
    assert 0.7 <= inside <= 0.9
