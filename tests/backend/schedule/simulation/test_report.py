"""A small study makes a report; twice the same study, the same bytes."""

import pytest

from backend.schedule.simulate import Ending, Hardware, Outcome
from backend.schedule.simulation.catalogue import Catalogue
from backend.schedule.simulation.chart import bars
from backend.schedule.simulation.figures import attainment, fairness, latency, slowdown
from backend.schedule.simulation.lineup import OURS, PAPER
from backend.schedule.simulation.report import report
from backend.schedule.simulation.study import Plan, study, work_of
from backend.schedule.simulation.workload import Traffic, jobs

SMALL = Plan(
    ("calm",), (OURS, PAPER, "swap anywhere"), seconds=60.0, hardware=Hardware(devices=2), searches=False
)


def test_two_studies_of_one_seed_give_equal_bytes_and_name_every_policy():
    told: list[str] = []
    first = report(SMALL, study(SMALL, told.append))
    assert len(told) == work_of(SMALL)
    assert first == report(SMALL, study(SMALL, lambda _: None))
    assert all(name in first["README.md"] for name in SMALL.policies)
    assert first["README.md"].count("| without split |") == 2
    assert first["rates.svg"].startswith("<svg")


def an_outcome(*ends: float | None) -> Outcome:
    drawn = jobs(Traffic("calm", 5.0, 600.0), Catalogue())[: len(ends)]
    endings = tuple(Ending(j, e and j.arrived + e * j.solo, 0.0) for j, e in zip(drawn, ends, strict=True))
    return Outcome(endings, 0, 0, 0, 0, 600.0, (), {}, {})


def test_a_refused_job_is_not_in_time():
    assert attainment(an_outcome(*[1.5] * 50, *[None] * 50)) == pytest.approx(0.45, abs=0.05)


def test_latency_is_that_of_jobs_that_ended():
    seen = latency(an_outcome(*[1.0] * 100))
    assert 0 < seen.p50 <= seen.p99
    assert seen.slowdown == pytest.approx(1.0)


def test_slowdown_counts_the_first_jobs_too_and_none_that_never_ended():
    assert slowdown(an_outcome(*[3.0] * 10, *[1.0] * 30, None)) == pytest.approx(1.5)


def test_fairness_compares_users_who_waited_all_the_time():
    served = ((0.0, 60.0, "a", 30.0), (0.0, 60.0, "b", 10.0), (0.0, 60.0, "idle", 1.0))
    waits = {"a": [(0.0, 60.0)], "b": [(0.0, 60.0)], "idle": [(0.0, 5.0)]}
    outcome = Outcome((), 0, 0, 0, 0, 60.0, served, waits, {})
    assert fairness(outcome) == pytest.approx(40**2 / (2 * (900 + 100)))


def test_a_chart_draws_a_bar_for_each_value():
    text = bars("rates", "jobs/s", ["calm", "burst"], {"one": [1.0, None], "two": [2.0, 3.0]})
    assert text.count("<title>") == 3
