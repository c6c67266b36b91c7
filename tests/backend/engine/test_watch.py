"""The watchdog over an engine on fakes, its clock moved by hand."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backend.engine.clock import ManualClock
from backend.engine.events import JobInterrupted, JobSucceeded
from backend.engine.loop import Limits
from backend.engine.store import Store
from backend.worker.messages import DeviceInfo, Lost, Progress, Ready, Started
from tests.backend.engine.test_loop import GPU, Bench, start
from tests.backend.graph.toys import a_sum_prompt, an_image_prompt


class Watched:
    """An engine, and its time."""

    def __init__(self, bench: Bench, clock: ManualClock) -> None:
        self.bench, self.clock = bench, clock

    def after(self, seconds: float) -> None:
        """Time goes by, with the watchdog's looks in it."""
        for _ in range(round(seconds / 0.5)):
            self.bench.engine.look()
            self.clock.advance(0.5)
        self.bench.engine.look()

    def hung(self) -> list[str]:
        devices = self.bench.engine.pool_view().devices
        return [op.name for device in devices for op in device.running if op.hung]

    async def denoising(self, **prompt: object) -> tuple[str, str]:
        """A job whose Denoise op runs: the job, and the op's key."""
        job = await self.bench.submit(an_image_prompt(**prompt))
        await self.bench.settle()
        while "Denoise" not in (kinds := {type(op).__name__ for op in self.bench.gpu.running.values()}):
            assert kinds
            for key in list(self.bench.gpu.running):
                self.bench.gpu.finish(key)
            await self.bench.settle()
        key = list(self.bench.gpu.running)[-1]
        self.bench.engine.report(GPU, Started(key))
        await self.bench.settle()
        return job, key


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[Watched]:
    store, clock = Store.open(tmp_path / "jobs.db"), ManualClock()
    bench = await start(store, clock, Limits(watchdog=60.0))
    await bench.settle()
    bench.hold()
    yield Watched(bench, clock)
    await bench.engine.close()
    store.close()


async def test_an_op_without_progress_is_named_once_and_no_more_when_it_goes_on(watched, caplog):
    _, key = await watched.denoising()
    watched.after(59)
    assert watched.hung() == []
    watched.bench.engine.report(GPU, Progress(key, 1, 4))
    await watched.bench.settle()
    watched.after(59)
    assert watched.hung() == []
    watched.after(10)
    (name,) = watched.hung()
    warnings = [r.message for r in caplog.records if "no progress" in r.message]
    assert len(warnings) == 1
    assert name in warnings[0]
    assert key in warnings[0]
    assert GPU in warnings[0]
    watched.bench.engine.report(GPU, Progress(key, 2, 4))
    await watched.bench.settle()
    watched.after(0.5)
    assert watched.hung() == []


async def test_a_cancel_that_is_not_confirmed_ends_the_worker_within_two_seconds(watched):
    watched.bench.gpu.deaf = True
    job, key = await watched.denoising()
    await watched.bench.engine.interrupt(job)
    assert watched.bench.of(JobInterrupted, job)  # the client knows at once
    watched.after(1.0)
    assert watched.bench.gpu.abandoned == []
    watched.after(1.0)
    assert watched.bench.gpu.abandoned == [key]


async def test_a_cancel_that_is_confirmed_costs_no_worker(watched):
    job, _ = await watched.denoising()
    await watched.bench.engine.interrupt(job)
    await watched.bench.settle()
    watched.after(30)
    assert watched.bench.gpu.abandoned == []


async def test_a_slow_step_has_the_time_that_its_steps_take(watched):
    watched.bench.gpu.deaf = True
    job, key = await watched.denoising()
    for step in range(3):
        watched.after(4)
        watched.bench.engine.report(GPU, Progress(key, step + 1, 9))
        await watched.bench.settle()
    watched.after(0.5)
    await watched.bench.engine.interrupt(job)
    watched.after(8.0)
    assert watched.bench.gpu.abandoned == []
    watched.after(2.5)
    assert watched.bench.gpu.abandoned == [key]


async def test_others_on_an_ended_worker_have_more_time_run_again_and_are_not_to_blame(watched):
    watched.bench.gpu.deaf = True
    job, key = await watched.denoising(seed=1)
    other, _ = await watched.denoising(seed=2)
    for death in range(3):  # as many as would convict an op
        if death:
            job, key = await watched.denoising(seed=10 + death)
            watched.bench.gpu.deaf = True
        gpu = watched.bench.gpu
        await watched.bench.engine.interrupt(job)
        watched.after(9)
        assert gpu.abandoned == []
        watched.after(2)
        assert gpu.abandoned == [key]
        watched.bench.engine.report(GPU, Lost("killed by SIGKILL"))
        watched.bench.engine.report(GPU, Ready(DeviceInfo("fake", "cpu", None, 1, 1), pid=1))
        await watched.bench.settle()
        assert watched.bench.gpu is not gpu
        assert "Denoise" in {type(op).__name__ for op in watched.bench.gpu.running.values()}
    while not watched.bench.of(JobSucceeded, other):
        for running in list(watched.bench.gpu.running):
            watched.bench.gpu.finish(running)
        await watched.bench.settle()


async def test_a_cancelled_host_call_that_does_not_end_is_abandoned(watched):
    host = watched.bench.host
    host.auto, host.deaf = False, True
    job = await watched.bench.submit(a_sum_prompt(3))
    await watched.bench.settle()
    (key,) = list(host.running)[:1]
    await watched.bench.engine.interrupt(job)
    watched.after(2)
    assert key in host.abandoned
