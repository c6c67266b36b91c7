"""Workers that are forked."""

import os
import signal
import subprocess
import sys
import time
from queue import Queue

import psutil
import pytest

from backend.types import DeviceId, OpKey
from backend.worker.messages import Failed, Lost, Ready, Started
from backend.worker.nursery import Nursery
from backend.worker.pool import WorkerProcess, idle_cpu
from backend.worker.process import NURSERY, WORKER
from tests.backend.worker.test_pool import SIGMAS, gone

pytestmark = pytest.mark.server


@pytest.fixture
def nursery():
    made = Nursery()
    yield made
    made.stop()


def a_worker(settings, nursery, reports):
    return WorkerProcess(DeviceId("w"), settings, 0, lambda _, report: reports.put(report), 1, nursery.fork)


def test_a_killed_worker_is_replaced_at_once_and_the_nursery_itself_when_it_dies(tiny_settings, nursery):
    reports = Queue()
    worker = a_worker(tiny_settings, nursery, reports)
    first = reports.get(timeout=200)
    assert isinstance(first, Ready)
    assert first.pid == worker.pid
    worker.kill()
    lost = reports.get(timeout=10)
    assert isinstance(lost, Lost)
    assert "killed by SIGKILL" in lost.reason

    begun = time.monotonic()
    again = a_worker(tiny_settings, nursery, reports)
    assert isinstance(reports.get(timeout=10), Ready)
    assert time.monotonic() - begun < 3  # an import of torch alone takes longer on a busy machine

    parent = os.getpgid(nursery._line._process.pid)
    os.kill(parent, signal.SIGKILL)
    assert isinstance(reports.get(timeout=10), Lost)  # no worker lives on without the process it came from
    last = a_worker(tiny_settings, nursery, reports)
    assert isinstance(reports.get(timeout=200), Ready)
    last.stop()
    assert gone(last.pid)
    assert again.wait(10)


def test_a_server_that_ends_while_the_nursery_loads_waits_for_nothing(tiny_settings):
    nursery, reports = Nursery(), Queue()
    worker = a_worker(tiny_settings, nursery, reports)
    time.sleep(0.3)
    begun = time.monotonic()
    nursery.stop()
    worker.stop()
    assert time.monotonic() - begun < 2
    assert worker.pid is None
    with pytest.raises(OSError, match="ending"):
        nursery.fork(0)


def test_an_idle_worker_is_ready_without_a_process_until_it_is_woken(tiny_settings, nursery):
    reports, idle = Queue(), idle_cpu(tiny_settings)
    worker = WorkerProcess(
        DeviceId("w"), tiny_settings, 0, lambda _, report: reports.put(report), 1, nursery.fork, idle
    )
    assert reports.get(timeout=10) == Ready(idle, 0)
    worker.unload()  # nothing is there to be dropped
    time.sleep(0.2)
    assert worker.pid is None
    worker.run(OpKey("a"), SIGMAS, {})
    assert isinstance(reports.get(timeout=60), Started)  # the process's own Ready is old news
    assert isinstance(reports.get(timeout=10), Failed)
    assert worker.pid is not None
    worker.stop()


def test_an_idle_worker_can_be_stopped(tiny_settings, nursery):
    reports = Queue()
    idle = idle_cpu(tiny_settings)
    worker = WorkerProcess(
        DeviceId("w"), tiny_settings, 0, lambda _, report: reports.put(report), 1, nursery.fork, idle
    )
    assert isinstance(reports.get(timeout=10), Ready)
    worker.stop()
    assert worker.wait(5)
    assert worker.pid is None
    assert reports.empty()


EARLY = """
import sys, torch
from queue import Queue
from backend.types import DeviceId
from backend.worker.nursery import Nursery
from backend.worker.process import nurse
nursery = Nursery.early(nurse)
from pathlib import Path
from backend.settings import Settings
from backend.worker.pool import WorkerProcess
settings = Settings(base_directory=Path(sys.argv[1]), cpu=True)
reports = Queue()
worker = WorkerProcess(DeviceId("w"), settings, 0, lambda _, r: reports.put(r), 1, nursery.fork)
print(type(reports.get(timeout=200)).__name__, nursery._line._process.pid, worker.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone")
def test_a_nursery_of_the_servers_own_shares_torch_with_it_and_ends_with_it(tmp_path):
    """The server is a process of its own here, as it must have one thread."""
    command = [sys.executable, "-c", EARLY, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        kind, early, forked = server.stdout.readline().split()
        assert kind == "Ready"
        nurse, worker = psutil.Process(int(early)), psutil.Process(int(forked))
        assert (nurse.name(), nurse.ppid()) == (NURSERY, server.pid)
        assert worker.name() == WORKER
        memory = nurse.memory_full_info()
        assert memory.pss < memory.rss / 2  # torch stands in memory once for all three
        server.kill()
    assert not psutil.wait_procs([nurse, worker], timeout=10)[1]
