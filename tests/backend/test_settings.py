"""What the settings take from and give to the environment."""

import os
import subprocess
import sys

import pytest

from backend.settings import yield_idle_cores


def test_threads_that_wait_yield_their_core_in_this_process_and_its_children(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    yield_idle_cores()
    shown = subprocess.run(
        [sys.executable, "-c", "import os; print(os.environ['OMP_WAIT_POLICY'])"],
        capture_output=True,
        text=True,
    )
    assert shown.stdout.strip() == "PASSIVE"


def test_the_users_own_choice_stands(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    yield_idle_cores()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
