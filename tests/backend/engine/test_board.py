"""What the engine does with the decisions of plan(): on fakes, each of which keeps what it is told."""

import asyncio
from dataclasses import replace

import pytest

from backend.engine.board import Board
from backend.engine.clock import ManualClock
from backend.engine.events import JobFailed, JobSucceeded
from backend.engine.jobs import Submission
from backend.engine.loop import Engine, Limits
from backend.engine.results import Results
from backend.engine.store import Store
from backend.errors import QueueFull
from backend.types import ComponentId, DeviceId, OpKey
from backend.worker.messages import DeviceInfo, Finished, Loaded, Progress, Ready, Resident, Table
from tests.backend.engine.test_loop import GPU, HOST, Bench, FakeWorker
from tests.backend.engine.test_results import FakeValue
from tests.backend.graph.toys import a_registry, an_image_prompt

GIB = 1 << 30


class Pool(Bench):
    """A Bench on a clock of its own. gpus: the workers by name."""

    def worker(self, name: str) -> FakeWorker:
        return next(w for w in reversed(self.workers) if w.id == name)

    async def wait_for(self, kind: str) -> tuple[FakeWorker, str]:
        """The worker that runs an op of a kind, and the op."""
        await self.settle()
        found = [(w, k) for w in self.workers for k, op in w.running.items() if type(op).__name__ == kind]
        assert found, f"no {kind} runs"
        return found[-1]

    async def encode(self) -> None:
        """Finish the texts that are being encoded."""
        worker, key = await self.wait_for("EncodeText")
        worker.finish(key)
        await self.settle()


@pytest.fixture
async def pool(tmp_path):
    """pool(workers, rows, limits): an engine with held workers of 64 GiB."""
    store, made = Store.open(tmp_path / "jobs.db"), []

    async def build(workers: int = 1, rows: int = 2, limits: Limits | None = None) -> Pool:
        clock = ManualClock(100.0)
        engine = Engine(a_registry(), {}, store, clock, limits or Limits())
        bench = Pool(engine, FakeWorker(HOST, engine.report), [], [], [False])
        bench.clock = clock
        engine.subscribe(bench.events.append)
        await engine.start()
        engine.add_host(bench.host, slots=4)
        for index in range(workers):
            add_worker(bench, DeviceId(f"gpu{index}"), rows)
        await bench.settle()
        made.append(engine)
        return bench

    yield build
    for engine in made:
        await engine.close()
    store.close()


def add_worker(bench: Pool, id: DeviceId, rows: int) -> None:
    def make() -> FakeWorker:
        bench.workers.append(FakeWorker(id, bench.engine.report, auto=False))
        total = 64 * GIB
        bench.engine.report(id, Ready(DeviceInfo("fake", "cpu", None, total, total), pid=1))
        return bench.workers[-1]

    bench.engine.add_device(id, make, slots=1, max_rows=rows)


def decided(bench: Pool, kind: str) -> list:
    return [d for d in bench.engine.pool_view().decisions if d.kind == kind]


def test_what_took_long_beside_other_work_is_worth_no_more_than_its_own_effort():
    board = Board(a_registry(), ManualClock(), Results(4 * GIB))
    for key, effort in (("waited", 0.001), ("worked", None)):
        board.finished(Finished(OpKey(key), FakeValue(GIB), (1,), 60.0, effort=effort))
    assert board.results.shrink() == ["waited"]


async def test_a_denoiser_is_loaded_ahead_by_a_device_that_has_nothing_to_do(pool):
    bench = await pool(workers=2)
    await bench.submit(an_image_prompt())
    worker, _ = await bench.wait_for("EncodeText")
    other = bench.worker("gpu1" if worker.id == "gpu0" else "gpu0")
    assert [what for what, _ in other.told] == ["load", "load"]  # the denoiser and the VAE
    assert any(str(component).startswith("denoiser") for _, component in other.told)
    assert "a job will need it" in decided(bench, "load")[0].reason
    await bench.encode()
    worker, _ = await bench.wait_for("Denoise")
    assert worker is other


async def test_a_long_run_is_paused_for_another_users_short_one_and_resumed(pool):
    bench = await pool()
    await bench.submit(an_image_prompt(seed=1), "ann")
    await bench.encode()
    gpu, long = await bench.wait_for("Denoise")
    running = bench.engine._board.pool.devices[GPU].running[long]
    running.op, running.charged = replace(running.op, cost=600.0), 600.0  # it turned out to be long
    bench.clock.advance(60.0)
    bench.engine.report(GPU, Progress(long, 1, 10))
    await bench.settle()
    job = await bench.submit(an_image_prompt(seed=2), "bob")
    await bench.settle()
    assert ("pause", long) in gpu.told
    (short,) = [k for k, op in gpu.running.items() if type(op).__name__ == "Denoise" and k != long]
    gpu.finish(short)
    await bench.settle()
    assert gpu.told[-1] == ("resume", long)
    assert [d.kind for d in bench.engine.pool_view().decisions if d.kind in ("preempt", "resume")] == [
        "preempt",
        "resume",
    ]
    gpu.finish(gpu.one("DecodeLatent"))
    await bench.settle()
    assert len(bench.of(JobSucceeded, job)) == 1


async def test_a_paused_run_that_nobody_wants_any_more_is_cancelled(pool):
    bench = await pool()
    mine = await bench.submit(an_image_prompt(seed=1), "ann")
    await bench.encode()
    gpu, long = await bench.wait_for("Denoise")
    running = bench.engine._board.pool.devices[GPU].running[long]
    running.op, running.charged = replace(running.op, cost=600.0), 600.0
    bench.clock.advance(60.0)
    bench.engine.report(GPU, Progress(long, 1, 10))
    await bench.submit(an_image_prompt(seed=2), "bob")
    await bench.settle()
    assert ("pause", long) in gpu.told
    await bench.engine.interrupt(mine)
    await bench.settle()
    assert long not in gpu.running
    assert not bench.engine._board.pool.devices[GPU].paused
    assert ("resume", long) not in gpu.told


async def test_a_job_that_is_too_late_fails_with_what_to_do_and_takes_no_other_along(pool):
    bench = await pool(rows=2)
    await bench.submit(an_image_prompt(seed=1), "ann")
    await bench.encode()
    late = await bench.submit(an_image_prompt(seed=2), "bob", extra={"deadline_ms": 500})
    same = await bench.submit(an_image_prompt(seed=2), "cid")
    await bench.settle()
    bench.clock.advance(5.0)
    bench.engine._dispatch()
    await bench.settle()
    (event,) = bench.of(JobFailed, late)
    assert event.type == "DeadlineMissed"
    assert "larger `deadline_ms`, or none" in event.message
    assert bench.of(JobFailed, same) == []
    gpu, first = await bench.wait_for("Denoise")
    gpu.finish(first)
    _, second = await bench.wait_for("Denoise")
    gpu.finish(second)
    for _ in range(2):
        await bench.settle()
        gpu.finish(gpu.one("DecodeLatent"))
    await bench.settle()
    assert len(bench.of(JobSucceeded, same)) == 1


async def test_weights_that_fit_no_device_fail_the_job_with_their_size(pool):
    bench = await pool()
    await bench.submit(an_image_prompt(seed=1))
    await bench.encode()
    gpu, key = await bench.wait_for("Denoise")
    component = bench.engine._board.pool.devices[GPU].running[key].op.components[0]
    gpu.finish(key)
    bench.engine.report(GPU, Table((Resident(component, "denoiser of x", 80 * GIB),)))
    await bench.settle()
    job = await bench.submit(an_image_prompt(seed=2))
    await bench.settle()
    (event,) = bench.of(JobFailed, job)
    assert event.type == "TooLarge"
    assert "80 GiB" in event.message
    assert ("unload", (component,)) in gpu.told


async def test_the_user_who_received_less_goes_first(pool):
    bench = await pool()
    for seed in range(4):
        await bench.submit(an_image_prompt(seed=seed), "ann")
    await bench.encode()
    bob = await bench.submit(an_image_prompt(seed=9), "bob")
    await bench.settle()
    gpu, first = await bench.wait_for("Denoise")
    gpu.finish(first)
    await bench.settle()
    second = gpu.one("Denoise")
    live = bench.engine._board.graph[second]
    assert {bench.engine._roster.jobs[key].record.id for key in live.jobs} == {bob}


async def test_a_full_queue_takes_no_more_and_says_when_to_come_back(pool):
    bench = await pool(limits=Limits(max_queue=2))
    for seed in range(2):
        await bench.submit(an_image_prompt(seed=seed))
    with pytest.raises(QueueFull, match="2 jobs are unfinished") as full:
        await bench.engine.submit(Submission(an_image_prompt(seed=5)))
    assert full.value.retry_after >= 1
    assert bench.engine.remaining() == 2


async def test_what_was_measured_outlives_the_server(pool, tmp_path):
    bench = await pool()
    component = ComponentId("denoiser@x")
    bench.engine.report(GPU, Loaded(component, "denoiser of x", 5, 2.5))
    bench.engine.report(GPU, Table((Resident(component, "denoiser of x", 5),), passes=((component, 4, 0.3),)))
    await bench.settle()
    await bench.engine.close()
    again = await pool()
    profile = again.engine._board.pool.profile
    assert (profile.load(component), profile.step(component, 4), profile.nbytes(component)) == (2.5, 0.3, 5)


async def test_ops_of_a_lost_worker_paused_ones_too_run_elsewhere(pool):
    from backend.worker.messages import Lost

    bench = await pool()
    await bench.submit(an_image_prompt(seed=1), "ann")
    await bench.encode()
    gpu, long = await bench.wait_for("Denoise")
    running = bench.engine._board.pool.devices[GPU].running[long]
    running.op, running.charged = replace(running.op, cost=600.0), 600.0
    bench.clock.advance(60.0)
    bench.engine.report(GPU, Progress(long, 1, 10))
    await bench.submit(an_image_prompt(seed=2), "bob")
    await bench.settle()
    assert ("pause", long) in gpu.told
    bench.engine.report(GPU, Lost("killed"))
    await asyncio.sleep(0)
    await bench.settle()
    ran = set()
    for _ in range(2):  # one after the other: each is a suspect now
        worker, key = await bench.wait_for("Denoise")
        assert worker is not gpu
        ran.add(key)
        worker.finish(key)
        await bench.settle()
    assert long in ran
