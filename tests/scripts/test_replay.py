"""The prediction that is held against a live server."""

import pytest

from scripts.replay import Measured, Sd, predict

MEASURED = Measured({2: 0.1, 4: 0.15, 8: 0.25}, beside=1.5, encode=0.0, rest=0.5)


def some(jobs: int, steps: int = 20, **more) -> list[Sd]:
    return [Sd("text", ((seed, steps, 1.0),), **more) for seed in range(jobs)]


def test_one_job_takes_its_passes_and_the_rest():
    assert predict(MEASURED, some(1), devices=1, max_rows=8) == pytest.approx(2.5)


def test_jobs_at_once_share_passes():
    four = predict(MEASURED, some(4), devices=1, max_rows=8)
    assert 20 * 0.25 <= four < 4 * 20 * 0.1
    assert predict(MEASURED, some(4), devices=2, max_rows=8) < four


def test_equal_jobs_are_computed_once():
    assert predict(MEASURED, some(1) * 4, devices=1, max_rows=8) == pytest.approx(2.5)


def test_loras_lengthen_passes_and_a_second_sampler_adds_its_own():
    assert predict(MEASURED, some(1, lora=0), devices=1, max_rows=8) == pytest.approx(3.5)
    twice = [Sd("text", ((1, 20, 1.0), (2, 4, 0.5)))]
    assert predict(MEASURED, twice, devices=1, max_rows=8) == pytest.approx(2.9)
