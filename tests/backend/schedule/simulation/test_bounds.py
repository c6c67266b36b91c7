"""What no policy can exceed, no policy exceeds."""

import pytest

from backend.schedule.simulate import Hardware
from backend.schedule.simulation import bounds
from backend.schedule.simulation.catalogue import Catalogue
from backend.schedule.simulation.lineup import POLICIES, simulate
from backend.schedule.simulation.workload import PRESETS, Traffic, jobs

TWO = Hardware(devices=2)


def test_the_lowest_price_of_a_job_is_no_more_than_its_work_alone():
    for preset in PRESETS:
        for job in jobs(Traffic(preset, 1.0, 100.0), Catalogue()):
            assert 0 < bounds.least(job) <= job.work * (1 + 1e-9)


def test_the_bound_grows_with_devices_and_lies_above_the_even_rate():
    drawn = bounds.drawn_for_bounds(Traffic("calm"))
    assert bounds.highest_rate(drawn, 8) == pytest.approx(4 * bounds.highest_rate(drawn, 2))
    assert bounds.highest_rate(drawn, 8) > bounds.even_rate(drawn, 8)


def test_the_fewest_devices_are_those_whose_bound_is_the_rate():
    drawn = bounds.drawn_for_bounds(Traffic("calm"))
    assert bounds.fewest_devices(drawn, bounds.highest_rate(drawn, 3) * 0.999) == 3


def test_a_longer_burst_may_be_less_large():
    drawn = bounds.drawn_for_bounds(Traffic("calm"))
    short, long = (bounds.highest_burst(drawn, 8, 0.1, seconds) for seconds in (60.0, 600.0))
    assert short > long > bounds.highest_rate(drawn, 8) / 0.1


@pytest.mark.parametrize("name", POLICIES)
def test_above_the_bound_too_few_jobs_are_in_time(name):
    traffic = Traffic("calm", 1.0, 240.0)
    drawn = bounds.drawn_for_bounds(traffic)
    rate = 1.3 * bounds.highest_rate(drawn, 2)
    outcome = simulate(name, Traffic("calm", rate, 240.0), TWO)
    assert sum(e.in_time for e in outcome.endings) < bounds.BAR * len(outcome.endings)
