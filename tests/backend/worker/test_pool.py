"""A real worker process, over its connection."""

import os
import signal
import subprocess
import sys
import time
from multiprocessing import Pipe
from queue import Empty, Queue

import pytest
import torch

from backend.components import File, Weights
from backend.guiders import CfgGuider, Noise, Sampler, Schedule
from backend.ops import DecodeLatent, Denoise, EncodeText, ModelSigmas
from backend.references import Clip, Model, Ref, Vae
from backend.settings import Settings
from backend.storage import Storage
from backend.types import DeviceId, Latent, OpKey
from backend.worker.exchange import Value
from backend.worker.messages import Failed, Finished, Lost, Progress, Ready, Started
from backend.worker.pool import WorkerProcess

pytestmark = pytest.mark.server

NOWHERE = Weights("denoiser", "none", (File("/nowhere/model.safetensors", 1, 1, 1),))
SIGMAS = ModelSigmas(Model(NOWHERE), Schedule("normal", 4))


class Worker:
    """A worker process and what it reported."""

    def __init__(self, settings):
        self.reports = Queue()
        self.process = WorkerProcess(
            DeviceId("w"), settings, 0, lambda device, report: self.reports.put(report)
        )

    def next(self, kind, within=200):
        """The next report of that kind; others on the way are dropped."""
        end = time.monotonic() + within
        while True:
            report = self.reports.get(timeout=max(0.0, end - time.monotonic()))
            if isinstance(report, kind):
                return report


@pytest.fixture(scope="module")
def worker(tiny_settings):
    """One for the tests that leave it as it is: a start takes seconds."""
    worker = Worker(tiny_settings)
    worker.ready = worker.next(Ready)
    yield worker
    worker.process.stop()
    assert gone(worker.process.pid)
    assert not any(isinstance(report, Lost) for report in worker.reports.queue)


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_failing_op_is_reported_and_the_worker_goes_on(worker):
    info, pid = worker.ready.info, worker.ready.pid
    assert (info.type, pid) == ("cpu", worker.process.pid)
    assert info.total >= info.free > 0
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


def test_a_worker_killed_in_mid_sampling_is_lost_once_and_what_it_gave_stays(tiny_settings):
    worker = Worker(tiny_settings)
    file = Storage(tiny_settings).file("checkpoints", "tiny.safetensors")
    worker.process.run(OpKey("t"), EncodeText(Clip((Weights("text_encoder", "t", (file,)),)), "a fox"), {})
    text = worker.next(Finished).value
    guider = CfgGuider(Model(Weights("denoiser", "d", (file,))), Ref(OpKey("t")), Ref(OpKey("t")), 2.0)
    latent = Latent(torch.zeros(1, 4, 8, 8))
    op = Denoise(guider, latent, Noise(0), Sampler("euler"), Schedule("normal", 900))
    worker.process.run(OpKey("d"), op, {OpKey("t"): text})
    assert worker.next(Progress).max == 900
    os.kill(worker.process.pid, signal.SIGKILL)
    assert "killed by SIGKILL" in worker.next(Lost).reason
    assert worker.process.wait(5)
    with pytest.raises(Empty):
        worker.reports.get(timeout=0.2)
    ((conditioning,),) = text.get()
    text.close()
    assert conditioning[0].tokens.shape[1] == 77


def test_a_worker_may_be_stopped_before_it_is_up(tiny_settings):
    worker = Worker(tiny_settings)
    started = time.monotonic()
    worker.process.stop()
    assert time.monotonic() - started < 8
    assert worker.process.pid is None or gone(worker.process.pid)
    assert worker.reports.empty()


def test_a_message_that_meets_a_closed_connection_ends_the_sender_quietly():
    worker, (ours, theirs) = WorkerProcess.__new__(WorkerProcess), Pipe()
    worker._outbox = Queue()
    worker._outbox.put("a message on its way while the worker is stopped")
    ours.close()
    theirs.close()
    worker._send(ours)


def test_a_worker_ends_when_its_server_is_killed_even_while_it_starts(tmp_path):
    script = (
        "import time; from pathlib import Path; from backend.settings import Settings\n"
        "from backend.worker.pool import WorkerProcess\n"
        f"settings = Settings(base_directory=Path({str(tmp_path)!r}), cpu=True, threads=1)\n"
        "worker = WorkerProcess('w', settings, 0, lambda device, report: None)\n"
        "while not worker.pid: time.sleep(0.01)\n"
        "print(worker.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as server:
        pid = int(server.stdout.readline())
        time.sleep(0.5)
        assert not gone(pid)
        server.kill()
    end = time.monotonic() + 10
    while not gone(pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert gone(pid)


def test_the_process_speaks_for_itself_when_it_cannot_start(tmp_path):
    reports = Queue()
    settings = Settings(base_directory=tmp_path, cpu=True, verbose="NO SUCH LEVEL")
    WorkerProcess(DeviceId("w"), settings, 0, lambda device, report: reports.put(report))
    lost = reports.get(timeout=200)
    assert isinstance(lost, Lost)
    assert "exit code 1" in lost.reason
    assert "NO SUCH LEVEL" in lost.reason
    assert Finished not in map(type, list(reports.queue))
