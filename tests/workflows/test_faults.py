"""Workers that are killed, and memory over many jobs: minutes each, on a real server."""

import random
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.build import a_prompt, a_tiny_prompt
from tests.serving import Server, succeeded
from tests.workflows.conftest import a_base

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(900)]

USERS = 8
SAMPLERS = ("euler", "dpmpp_2m", "heun", "euler_ancestral")


def a_mixed_prompt(number: int, size: int = 64, steps: int = 6) -> dict:
    """Host work, and sampling of several lengths, sizes and samplers; some of the prompts are equal."""
    if number % 2:
        prompt = a_tiny_prompt(color=number, size=32)
        prompt["3"]["inputs"]["filename_prefix"] = f"job{number}"
        return prompt
    kind = number // 2 % 90
    return a_prompt(
        text=f"a view of mountain {kind % 5}",
        seed=kind,
        steps=steps + 4 * (kind % 3),
        size=size if kind % 4 else size + 32,
        sampler=SAMPLERS[kind % 4],
        prefix=f"job{number}",
    )


def pixels(server: Server, entry: dict) -> np.ndarray:
    assert succeeded(entry), entry["status"]
    (path,) = server.outputs(entry)
    return np.asarray(Image.open(path).convert("RGB"), dtype=np.int16)


def submit_all(server: Server) -> list[str]:
    """200 jobs that take about half a minute of one core."""
    prompts = [a_mixed_prompt(n, size=128, steps=16) for n in range(200)]
    return [server.submit(p, client_id=f"user{n % USERS}") for n, p in enumerate(prompts)]


def kill_now_and_then(server: Server, stop: threading.Event, killed: list[int]) -> None:
    """End a random worker every five seconds."""
    choice = random.Random(7)
    while not stop.wait(5.0):
        if workers := server.workers():
            victim = choice.choice(workers)
            victim.kill()
            killed.append(victim.pid)


def test_200_jobs_of_8_users_all_end_right_and_once_while_workers_are_killed(
    tmp_path: Path, checkpoint: Path
):
    flags = ("--cpu", "--force-fp32", "--workers", "2", "--threads", "1")
    with Server(a_base(tmp_path / "calm", checkpoint), flags) as calm:
        expected = [pixels(calm, calm.finished(job)) for job in submit_all(calm)]

    with Server(a_base(tmp_path / "rough", checkpoint), flags) as server:
        stop, killed = threading.Event(), list[int]()
        killer = threading.Thread(target=kill_now_and_then, args=(server, stop, killed))
        killer.start()
        try:
            jobs = submit_all(server)
            entries = [server.finished(job, timeout=600) for job in jobs]
        finally:
            stop.set()
            killer.join()
        assert len(killed) >= 2, "it was over before it was disturbed"
        assert len(set(jobs)) == 200
        assert sorted(server.get("/history?max_items=1000")) == sorted(jobs)
        saved = sorted(path.name for path in (server.base / "output").iterdir())
        assert saved == sorted(f"job{n}_00001_.png" for n in range(200))  # each once
        for number, (entry, right) in enumerate(zip(entries, expected, strict=True)):
            # kernels depend on the batch size in the last bits, and ancestral noise amplifies them a little
            assert np.abs(pixels(server, entry) - right).max() <= 2, a_mixed_prompt(number)


def used(server: Server) -> float:
    """Memory of the server and its workers, MB, pages that they share counted once."""
    return sum(p.memory_full_info().pss for p in server.processes()) / 2**20


def segments(server: Server) -> int:
    assert server.process is not None
    return len(list(Path("/dev/shm").glob(f"tessera-{server.process.pid}-*")))


def test_500_mixed_jobs_leave_memory_and_shared_memory_flat(tmp_path: Path, checkpoint: Path):
    flags = ("--cpu", "--force-fp32", "--workers", "1", "--cache-gb", "0.02")
    with Server(a_base(tmp_path / "base", checkpoint), flags) as server:

        def run(numbers: range) -> None:
            jobs = [server.submit(a_mixed_prompt(n), client_id=f"user{n % USERS}") for n in numbers]
            assert all(succeeded(server.finished(job)) for job in jobs)

        run(range(250))  # every kind of job, and the cache full
        early, shared = used(server), segments(server)
        run(range(250, 375))
        middle = used(server)
        run(range(375, 500))
        late = used(server)
        figures = f"{early:.0f} MB after 250 jobs, {middle:.0f} after 375, {late:.0f} after 500"
        assert late < early + 20, figures
        assert segments(server) <= shared + 20
        print(figures, segments(server), "segments")
