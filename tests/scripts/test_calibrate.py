"""The prediction that is held against a live server."""

import pytest

from scripts.calibrate import Measured, predict


def test_one_job_takes_its_passes_and_the_rest():
    measured = Measured(0.5, {2: 0.1, 4: 0.15, 8: 0.25})
    assert predict(measured, 1, 20, devices=1, max_rows=8) == pytest.approx(2.5)


def test_jobs_at_once_share_passes():
    measured = Measured(0.0, {2: 0.1, 4: 0.15, 8: 0.25})
    four = predict(measured, 4, 20, devices=1, max_rows=8)
    assert 20 * 0.25 <= four < 4 * 20 * 0.1
    assert predict(measured, 4, 20, devices=2, max_rows=8) < four
