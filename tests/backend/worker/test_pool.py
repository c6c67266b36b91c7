"""A real worker process, over its connection."""

import os
import signal
import subprocess
import sys
import time
from queue import Empty, Queue

import pytest
import torch

from backend.ops import DecodeLatent, ModelSigmas
from backend.references import File, Model, Ref, Schedule, Vae, Weights
from backend.settings import Settings
from backend.types import DeviceId, Latent, OpKey
from backend.worker.exchange import Value
from backend.worker.messages import Failed, Finished, Lost, Ready, Started
from backend.worker.pool import WorkerProcess

NOWHERE = Weights("denoiser", (File("/nowhere/model.safetensors", 1, 1, 1),))
SIGMAS = ModelSigmas(Model(NOWHERE), Schedule("normal", 4))


class Worker:
    """A worker process and what it reported."""

    def __init__(self, tmp_path):
        self.reports = Queue()
        settings = Settings(base_directory=tmp_path, cpu=True, threads=1)
        self.process = WorkerProcess(DeviceId("w"), settings, 0, lambda device, report: self.reports.put(report))

    def next(self, kind, within=60):
        """The next report of that kind; others on the way are dropped."""
        end = time.monotonic() + within
        while True:
            report = self.reports.get(timeout=max(0.0, end - time.monotonic()))
            if isinstance(report, kind):
                return report


@pytest.fixture
def worker(tmp_path):
    worker = Worker(tmp_path)
    yield worker
    worker.process.stop()


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_failing_op_is_reported_and_the_worker_goes_on(worker):
    ready = worker.next(Ready)
    assert (ready.info.type, ready.pid) == ("cpu", worker.process.pid)
    assert ready.info.total >= ready.info.free > 0
    for key in ("a", "b"):
        worker.process.run(OpKey(key), SIGMAS, {})
        assert worker.next(Started).key == key
        failure = worker.next(Failed)
        assert (failure.key, failure.type) == (key, "backend.errors.BadFile")
        assert "/nowhere/model.safetensors" in failure.message
        assert failure.traceback
        assert "normal" in failure.inputs["schedule"][0]


def test_inputs_reach_the_worker_and_one_that_cannot_be_packed_fails_its_op_alone(worker):
    op = DecodeLatent(Vae(NOWHERE), Ref(OpKey("x")))
    worker.process.run(OpKey("a"), op, {OpKey("x"): Value.of(((lambda: 1,),))})
    assert "pickle" in worker.next(Failed).message.lower()
    latent = Value.of(((Latent(torch.zeros(1, 4, 8, 8)),),))
    worker.process.run(OpKey("b"), op, {OpKey("x"): latent})
    failure = worker.next(Failed)
    latent.close()
    assert failure.type == "backend.errors.BadFile"
    assert "Tensor(torch.float32, [1, 4, 8, 8])" in failure.inputs["latent"][0]


def test_a_killed_worker_is_reported_lost_once_with_its_signal(worker):
    worker.next(Ready)
    os.kill(worker.process.pid, signal.SIGKILL)
    assert "killed by SIGKILL" in worker.next(Lost).reason
    assert worker.process.wait(5)
    with pytest.raises(Empty):
        worker.reports.get(timeout=0.2)


def test_a_stopped_worker_is_gone_and_not_called_lost(worker):
    worker.next(Ready)
    worker.process.stop()
    assert gone(worker.process.pid)
    assert worker.reports.empty()


def test_a_worker_may_be_stopped_before_it_is_up(worker):
    started = time.monotonic()
    worker.process.stop()
    assert time.monotonic() - started < 8
    assert worker.process.pid is None or gone(worker.process.pid)


def test_a_worker_ends_when_its_server_is_killed(tmp_path):
    script = (
        "import sys, time; from pathlib import Path; from backend.settings import Settings\n"
        "from backend.worker.messages import Ready; from backend.worker.pool import WorkerProcess\n"
        f"settings = Settings(base_directory=Path({str(tmp_path)!r}), cpu=True, threads=1)\n"
        "worker = WorkerProcess('w', settings, 0, lambda d, r: print(r.pid if isinstance(r, Ready) else '', flush=True))\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as server:
        pid = int(next(line for line in server.stdout if line.strip()))
        assert not gone(pid)
        server.kill()
    end = time.monotonic() + 5
    while not gone(pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert gone(pid)


def test_the_process_speaks_for_itself_when_it_cannot_start(tmp_path):
    reports = Queue()
    settings = Settings(base_directory=tmp_path, cpu=True, verbose="NO SUCH LEVEL")
    WorkerProcess(DeviceId("w"), settings, 0, lambda device, report: reports.put(report))
    lost = reports.get(timeout=60)
    assert isinstance(lost, Lost)
    assert "exit code 1" in lost.reason
    assert "NO SUCH LEVEL" in lost.reason
    assert Finished not in map(type, list(reports.queue))
