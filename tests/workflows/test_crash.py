"""Killed workers and killed servers: the client sees a pause, not an error."""

import signal
import time
from pathlib import Path

import psutil
import pytest
from PIL import Image

from tests.build import a_prompt, a_tiny_prompt
from tests.serving import Server, succeeded

pytestmark = pytest.mark.server


def wait_until(condition, timeout: float = 200.0) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.01)


def forwards(server: Server) -> int:
    return sum(d["table"]["forwards"] for d in server.get("/tessera/pool")["devices"])


def test_a_worker_killed_in_mid_sampling_costs_a_pause_only(server: Server):
    whole = server.run(a_prompt(seed=3, steps=16, size=128, prefix="whole"))
    server.post("/free", {"free_memory": True})

    before = forwards(server)
    job = server.submit(a_prompt(seed=3, steps=16, size=128, prefix="killed"))
    wait_until(lambda: forwards(server) > before + 2)
    (worker,) = server.workers()
    worker.kill()

    entry = server.finished(job)
    assert succeeded(entry), entry["status"]
    assert [p.pid for p in server.workers()] != [worker.pid]
    first, again = (Image.open(server.outputs(e)[0]).tobytes() for e in (whole, entry))
    assert first == again


def test_jobs_of_a_killed_server_all_run_after_the_restart_each_once_and_its_history_stays(
    own_server: Server,
):
    own_server.start()
    before = own_server.submit(a_tiny_prompt(color=1))
    told = own_server.finished(before)
    jobs = [own_server.submit(a_prompt(seed=s, steps=20, prefix=f"job{s}")) for s in range(4)]
    wait_until(lambda: forwards(own_server) > 2)
    assert own_server.get("/queue")["queue_running"]
    below = own_server.processes()
    assert own_server.process is not None
    own_server.process.kill()
    own_server.process.wait()
    _gone, alive = psutil.wait_procs(below, timeout=10)
    assert not alive  # no worker outlives its server

    own_server.start()
    entries = [own_server.finished(job) for job in jobs]
    assert all(succeeded(entry) for entry in entries)
    history = own_server.get("/history")
    assert sorted(history) == sorted([before, *jobs])
    assert history[before] == told
    saved = sorted(p.name for p in (own_server.base / "output").glob("job*.png"))
    assert saved == [f"job{s}_00001_.png" for s in range(4)]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_server_leaves_no_process_and_no_shared_memory(own_server: Server, signum: int):
    own_server.start()
    own_server.submit(a_prompt(steps=500, size=128))
    wait_until(lambda: forwards(own_server) > 2)
    processes = own_server.processes()
    assert len(processes) >= 2
    pid = own_server.process.pid if own_server.process else 0
    assert own_server.stop(signum, timeout=10) == 0
    _gone, alive = psutil.wait_procs(processes, timeout=5)
    assert not alive
    assert not list(Path("/dev/shm").glob(f"tessera-{pid}-*"))


def test_an_interrupt_stops_a_job_within_two_seconds_and_the_next_one_runs(server: Server):
    job = server.submit(a_prompt(steps=2000, size=128))
    wait_until(lambda: forwards(server) > 2)
    begun = time.monotonic()
    assert server.post("/interrupt", {})[0] == 200
    entry = server.finished(job, timeout=10)
    assert time.monotonic() - begun < 2
    assert [event for event, _ in entry["status"]["messages"]][-1] == "execution_interrupted"
    assert succeeded(server.run(a_prompt(steps=2)))
