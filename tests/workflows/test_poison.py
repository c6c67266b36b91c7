"""An op that ends every worker it runs on, and a node that never returns: others do not suffer."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import torch

from backend.engine.events import Event, JobFailed, JobInterrupted, JobSucceeded
from backend.engine.jobs import Submission
from backend.node import node
from backend.settings import Settings
from backend.types import Latent
from tests.build import a_node, a_prompt, a_tiny_prompt
from tests.workflows.conftest import a_base
from web.assembly import Assembly, assemble

pytestmark = pytest.mark.server


class Bomb:
    """Whoever unpickles it ends."""

    def __reduce__(self) -> tuple[Callable[[int], object], tuple[int]]:
        return os._exit, (7,)


@node("Poison", category="test")
def poison(*, seed: int = 0) -> Latent:
    return Latent(torch.zeros(1, 4, 8, 8), extra={"bomb": Bomb()})


entered, leave = threading.Event(), threading.Event()


@node("Hang", category="test")
def hang(*, seed: int = 0) -> Latent:
    entered.set()
    leave.wait(60)
    return Latent(torch.zeros(1, 4, 8, 8))


class Running:
    """An engine with one real worker, the nodes above, and what it says."""

    def __init__(self, assembly: Assembly) -> None:
        self.engine, self.events = assembly.engine, list[Event]()
        self.engine.subscribe(self.events.append)

    async def submit(self, prompt: object, client: str) -> str:
        return (await self.engine.submit(Submission(prompt, client=client))).id

    async def end(self, job: str) -> Event:
        kinds = (JobFailed, JobSucceeded, JobInterrupted)
        for _ in range(6000):
            for event in self.events:
                if isinstance(event, kinds) and event.job == job:
                    return event
            await asyncio.sleep(0.02)
        raise TimeoutError(job)


@pytest.fixture
async def running(tmp_path: Path, checkpoint: Path) -> AsyncIterator[Running]:
    settings = Settings(base_directory=a_base(tmp_path / "base", checkpoint), cpu=True, workers=1, threads=1)
    assembly = assemble(settings)
    for spec in (poison, hang):
        assembly.registry.add(spec)
    await assembly.engine.start()
    assembly.start_devices()
    yield Running(assembly)
    leave.set()
    await assembly.close()


def decoding(source: str) -> dict:
    return {
        "1": a_node("CheckpointLoaderSimple", ckpt_name="demo.safetensors"),
        "2": a_node(source, seed=1),
        "3": a_node("VAEDecode", samples=["2", 0], vae=["1", 2]),
        "4": a_node("SaveImage", images=["3", 0], filename_prefix="x"),
    }


async def test_an_op_that_ends_three_workers_fails_its_job_with_the_evidence_and_no_other(running: Running):
    bad = await running.submit(decoding("Poison"), "mallory")
    good = [await running.submit(a_prompt(seed=seed, steps=12), f"user{seed}") for seed in range(3)]
    failure = await running.end(bad)
    assert isinstance(failure, JobFailed)
    assert failure.node == "3"
    assert failure.type == "WorkerLost"
    assert "ended its worker process 3 times (exit code 7" in failure.message
    for job in good:
        assert isinstance(await running.end(job), JobSucceeded)


async def test_a_node_that_hangs_is_interrupted_and_others_run(running: Running):
    job = await running.submit(decoding("Hang"), "ann")
    assert await asyncio.to_thread(entered.wait, 60)
    await running.engine.interrupt(job)
    assert isinstance(await running.end(job), JobInterrupted)
    await asyncio.sleep(2.5)
    shown = running.engine.pool_view().devices
    assert [op.name for device in shown for op in device.running] == []  # its thread is nobody's any more
    other = await running.submit(a_tiny_prompt(), "ben")
    assert isinstance(await running.end(other), JobSucceeded)
