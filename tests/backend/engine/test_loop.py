import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from backend.components import Loadable
from backend.engine.clock import Clock, SystemClock
from backend.engine.events import (
    Event,
    JobFailed,
    JobInterrupted,
    JobSucceeded,
    NodeExecuted,
    NodeExecuting,
    NodesCached,
    StepProgress,
)
from backend.engine.fleet import HOST
from backend.engine.jobs import Submission
from backend.engine.loop import Engine, Limits
from backend.engine.store import Store
from backend.engine.watch import EVERY
from backend.graph.validate import Refused
from backend.node import NodeSpec
from backend.ops import Call, Op
from backend.references import Ref
from backend.types import ComponentId, DeviceId, OpKey
from backend.worker.messages import (
    DeviceInfo,
    Failed,
    Finished,
    HostCall,
    Lost,
    OpCancelled,
    Progress,
    Ready,
    Started,
    Stored,
)
from tests.backend.graph.toys import a_registry, a_sum_prompt, an_image_prompt

GPU = DeviceId("gpu0")


@dataclass
class FakeValue:
    outputs: tuple[tuple[object, ...], ...]
    nbytes: int = 100
    closed: bool = False

    def get(self) -> tuple[tuple[object, ...], ...]:
        assert not self.closed
        return self.outputs

    def close(self) -> None:
        self.closed = True


@dataclass
class FakeWorker:
    """Keeps what it is told to run until the test says what becomes of it."""

    id: DeviceId
    report: Callable[[DeviceId, object], None]
    running: dict[OpKey, Op[object]] = field(default_factory=dict)
    ran: list[tuple[str, OpKey]] = field(default_factory=list)
    auto: bool = True
    deaf: bool = False  # it does not hear of cancellations
    abandoned: list[OpKey] = field(default_factory=list)
    stopped: bool = False
    awake: bool = False
    told: list[tuple[str, object]] = field(default_factory=list)
    last: FakeValue | None = None

    def run(
        self,
        key: OpKey,
        op: Op[object],
        inputs: Mapping[OpKey, Stored],
        preview: str = "",
        preview_size: int = 0,
    ) -> None:
        assert key not in self.running
        self.running[key] = op
        self.ran.append((op.node if isinstance(op, Call) else type(op).__name__, key))
        if self.auto:
            self.finish(key, inputs)

    def run_chain(self, calls: Sequence[HostCall]) -> None:
        made: dict[OpKey, Stored] = {}
        for call in calls:
            self.report(self.id, Started(call.key))
            self.run(call.key, call.op, {**call.inputs, **made})
            if self.last is not None:
                made[call.key] = self.last

    def run_quick(self) -> None:
        """What it runs is over at once, or when the test says so."""

    def finish(self, key: OpKey, inputs: Mapping[OpKey, Stored] | None = None) -> None:
        op = self.running.pop(key)
        outputs, ui = (((f"{type(op).__name__}",),) * 2, None)
        if isinstance(op, Call):
            read = {
                n: [(inputs or {})[i.key].get()[i.slot][i.item] if isinstance(i, Ref) else i for i in items]
                for n, items in op.inputs.items()
            }
            if op.node == "Add":
                outputs = ((read["a"][0] + read["b"][0],),)
            if op.node == "Show":
                outputs, ui = (), {"shown": read["value"]}
        self.last = FakeValue(outputs)
        self.report(self.id, Finished(key, self.last, tuple(len(o) for o in outputs), 0.1, ui))

    def one(self, kind: str) -> OpKey:
        """The running op of a kind."""
        return next(k for k, op in self.running.items() if type(op).__name__ == kind)

    def cancel(self, key: OpKey) -> None:
        if not self.deaf and self.running.pop(key, None) is not None:
            self.report(self.id, OpCancelled(key))

    def abandon(self, key: OpKey) -> None:
        self.abandoned.append(key)

    def unload(self, components: Sequence[ComponentId] | None = None) -> None:
        self.told.append(("unload", components))

    def load(self, what: Loadable) -> None:
        self.told.append(("load", what.id))

    def wake(self) -> None:
        self.awake = True

    def pause(self, key: OpKey) -> None:
        self.told.append(("pause", key))

    def resume(self, key: OpKey) -> None:
        self.told.append(("resume", key))

    def stop(self) -> None:
        self.stopped = True

    def names(self) -> list[str]:
        return [name for name, _ in self.ran]


@dataclass
class Bench:
    """An engine on fakes, and everything that it said."""

    engine: Engine
    host: FakeWorker
    workers: list[FakeWorker]
    events: list[Event]
    automatic: list[bool]

    def hold(self) -> None:
        """Devices keep what they run, from now on."""
        self.gpu.auto = self.automatic[0] = False

    def release(self) -> None:
        """Devices that start from now on finish at once what they are given."""
        self.automatic[0] = True

    @property
    def gpu(self) -> FakeWorker:
        return self.workers[-1]

    async def submit(self, prompt: object, client: str = "me", **more: object) -> str:
        job = await self.engine.submit(Submission(prompt, client=client, **more))
        await asyncio.sleep(0)  # it is taken into the live graph
        return job.id

    async def settle(self) -> None:
        for _ in range(30):
            await asyncio.sleep(0)

    def of(self, kind: type, job: str) -> list[Event]:
        return [e for e in self.events if isinstance(e, kind) and e.job == job]

    def told(self, job: str) -> list[str]:
        return [type(e).__name__ for e in self.events if getattr(e, "job", None) == job]


async def start(
    store: Store, clock: Clock | None = None, limits: Limits | None = None, nodes: Sequence[NodeSpec] = ()
) -> Bench:
    engine = Engine(a_registry(*nodes), {}, store, clock or SystemClock(), limits or Limits())
    events: list[Event] = []
    engine.subscribe(events.append)
    await engine.start()
    host = FakeWorker(HOST, engine.report)
    workers: list[FakeWorker] = []
    automatic = [True]

    def make() -> FakeWorker:
        workers.append(FakeWorker(GPU, engine.report, auto=automatic[0]))
        engine.report(GPU, Ready(DeviceInfo("fake", "cpu", None, 1, 1), pid=1))
        return workers[-1]

    engine.add_host(host, slots=4)
    engine.add_device(GPU, make, slots=1, max_rows=8)
    return Bench(engine, host, workers, events, automatic)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    store = Store.open(tmp_path / "jobs.db")
    made = await start(store)
    await made.settle()
    yield made
    await made.engine.close()
    store.close()


async def test_a_job_runs_to_its_end_and_tells_it_node_by_node(bench):
    job = await bench.submit(an_image_prompt())
    await bench.settle()
    ran = [e.node for e in bench.of(NodeExecuting, job)]
    assert sorted(ran[:-1]) == ["1", "2", "3", "4", "5", "6"]
    assert ran[0] == "1"
    assert ran.index("4") < ran.index("5") < ran.index("6")
    assert ran[-1] is None
    assert bench.told(job)[-2:] == ["JobSucceeded", "NodeExecuting"]
    entry = await bench.engine.store.history_one(job)
    assert entry.status == "completed"
    assert entry.outputs == {"6": {"shown": ["DecodeLatent"]}}
    assert [m[0] for m in entry.messages] == ["execution_start", "execution_cached", "execution_success"]


async def test_an_equal_prompt_runs_nothing_and_shows_the_same(bench):
    await bench.submit(an_image_prompt())
    await bench.settle()
    ran = len(bench.gpu.ran), len(bench.host.ran)
    job = await bench.submit(an_image_prompt())
    await bench.settle()
    assert (len(bench.gpu.ran), len(bench.host.ran)) == ran
    assert [e.nodes for e in bench.of(NodesCached, job)] == [("1", "2", "3", "4", "5", "6")]
    assert [e.node for e in bench.of(NodeExecuting, job)] == [None]
    assert [(e.node, e.ui) for e in bench.of(NodeExecuted, job)] == [("6", {"shown": ["DecodeLatent"]})]


async def test_calls_leave_workers_asleep_and_the_first_work_for_models_wakes_them(bench):
    await bench.submit(a_sum_prompt(1))
    await bench.settle()
    assert not bench.gpu.awake
    await bench.submit(an_image_prompt())
    assert bench.gpu.awake


async def test_freed_memory_goes_back_once_after_the_last_job(bench, monkeypatch):
    given = []
    monkeypatch.setattr("backend.engine.loop.give_back", lambda: given.append(len(bench.engine.queue()[0])))
    await bench.submit(a_sum_prompt(1))
    await bench.settle()
    await asyncio.sleep(3 * EVERY)
    assert given == [0]


async def test_equal_work_of_two_users_runs_once_and_each_is_told_of_it(bench):
    bench.hold()
    mine = await bench.submit(an_image_prompt(), "me")
    yours = await bench.submit(an_image_prompt(), "you")
    await bench.settle()
    for kind in ("EncodeText", "Denoise"):
        bench.gpu.finish(bench.gpu.one(kind))
        await bench.settle()
    bench.gpu.finish(bench.gpu.one("DecodeLatent"))
    await bench.settle()
    assert bench.gpu.names() == ["EncodeText", "Denoise", "DecodeLatent"]
    assert bench.host.names().count("Show") == 2
    assert len(bench.of(JobSucceeded, mine)) == len(bench.of(JobSucceeded, yours)) == 1


async def test_cancelling_one_users_job_leaves_the_others_work_alone(bench):
    bench.hold()
    mine = await bench.submit(an_image_prompt(), "me")
    yours = await bench.submit(an_image_prompt(), "you")
    await bench.settle()
    await bench.engine.interrupt(mine)
    await bench.settle()
    assert len(bench.of(JobInterrupted, mine)) == 1
    for kind in ("EncodeText", "Denoise", "DecodeLatent"):
        bench.gpu.finish(bench.gpu.one(kind))
        await bench.settle()
    assert len(bench.of(JobSucceeded, yours)) == 1
    assert bench.of(JobSucceeded, mine) == []


async def test_interrupting_the_only_job_cancels_its_op_and_a_new_one_may_want_it_again(bench):
    bench.hold()
    job = await bench.submit(an_image_prompt())
    await bench.settle()
    await bench.engine.interrupt(job)
    again = await bench.submit(an_image_prompt())  # before the device has confirmed
    await bench.settle()
    assert (await bench.engine.store.history_one(job)).status == "cancelled"
    for kind in ("EncodeText", "Denoise", "DecodeLatent"):
        bench.gpu.finish(bench.gpu.one(kind))
        await bench.settle()
    assert len(bench.of(JobSucceeded, again)) == 1


async def test_a_failing_op_fails_its_job_and_no_other(bench):
    bench.hold()
    bad = await bench.submit(an_image_prompt(text="bad"))
    good = await bench.submit(a_sum_prompt(1))
    await bench.settle()
    bench.gpu.report(GPU, Failed(bench.gpu.one("EncodeText"), "ValueError", "broken\n", ("line",)))
    await bench.settle()
    (event,) = bench.of(JobFailed, bad)
    assert (event.node, event.node_type, event.type) == ("2", "Text", "ValueError")
    assert set(event.executed) == {"1", "3"}
    assert len(bench.of(JobSucceeded, good)) == 1
    assert (await bench.engine.store.history_one(bad)).status == "failed"


async def test_a_node_that_raises_while_lowering_is_an_execution_error(bench):
    job = await bench.submit(an_image_prompt(checkpoint="missing"))
    await bench.settle()
    (event,) = bench.of(JobFailed, job)
    assert (event.node, event.type) == ("1", "FileNotFoundError")
    assert bench.engine.remaining() == 0


async def test_a_number_that_a_node_computes_reaches_the_sampler(bench):
    job = await bench.submit(a_sum_prompt(40, width_from_sum=True))
    await bench.settle()
    assert len(bench.of(JobSucceeded, job)) == 1
    assert "Denoise" in bench.gpu.names()


async def test_ops_of_a_dead_worker_run_again_on_the_next(bench):
    bench.hold()
    job = await bench.submit(an_image_prompt())
    await bench.settle()
    bench.release()
    bench.engine.report(GPU, Lost("killed by signal 9"))
    await bench.settle()
    assert len(bench.workers) == 2
    assert bench.gpu.names() == ["EncodeText", "Denoise", "DecodeLatent"]
    assert len(bench.of(JobSucceeded, job)) == 1


async def test_an_op_that_kills_three_workers_fails_its_job_with_the_evidence(bench):
    bench.hold()
    job = await bench.submit(an_image_prompt())
    await bench.settle()
    for _ in range(3):
        assert bench.gpu.names() == ["EncodeText"]
        bench.engine.report(GPU, Lost("killed by signal 9"))
        await bench.settle()
    (event,) = bench.of(JobFailed, job)
    assert (event.node, event.type) == ("2", "WorkerLost")
    assert "3 times (killed by signal 9)" in event.message
    assert bench.gpu.names() == []


async def test_a_pending_job_can_be_taken_back(bench):
    bench.hold()
    first = await bench.submit(an_image_prompt(text="a", checkpoint="a"))
    await bench.settle()
    second = await bench.submit(
        {"6": {"class_type": "Show", "inputs": {"value": ["2", 0]}}, **_text_only("b")}
    )
    running, pending = bench.engine.queue()
    assert [r.id for r in running] == [first]
    assert [r.id for r in pending] == [second]
    await bench.engine.cancel_pending(None)
    assert bench.engine.queue()[1] == []
    assert await bench.engine.store.job(second) is None


def _text_only(text: str) -> dict[str, object]:
    return {
        "1": {"class_type": "Loader", "inputs": {"name": "z"}},
        "2": {"class_type": "Text", "inputs": {"clip": ["1", 1], "text": text}},
    }


async def test_a_job_is_lowered_once_its_client_was_answered_unless_it_is_taken_back(bench):
    kept = await bench.engine.submit(Submission(a_sum_prompt(1), client="me"))
    taken = await bench.engine.submit(Submission(a_sum_prompt(2), client="me"))
    assert (bench.events, bench.engine.remaining()) == ([], 2)
    await bench.engine.cancel_pending([taken.id])
    await bench.settle()
    assert bench.told(kept.id)[0] == "JobStarted"
    assert bench.told(taken.id) == []


async def test_progress_reaches_everyone_who_waits_for_the_op(bench):
    bench.hold()
    mine, yours = await bench.submit(an_image_prompt(), "me"), await bench.submit(an_image_prompt(), "you")
    await bench.settle()
    bench.gpu.finish(bench.gpu.one("EncodeText"))
    await bench.settle()
    bench.engine.report(GPU, Progress(bench.gpu.one("Denoise"), 1, 4))
    await bench.settle()
    for job in (mine, yours):
        assert [(e.node, e.value, e.max) for e in bench.of(StepProgress, job)] == [("4", 1, 4)]


async def test_what_can_not_run_is_refused_and_leaves_no_trace(bench):
    with pytest.raises(Refused):
        await bench.submit({"1": {"class_type": "Show", "inputs": {}}})
    assert bench.engine.remaining() == 0
    assert await bench.engine.store.jobs_page() == ([], 0)


async def test_jobs_go_by_number_then_by_arrival(bench):
    bench.hold()
    ids = [
        await bench.submit(an_image_prompt(seed=i, checkpoint=f"c{i}"), number=n)
        for i, n in enumerate((5.0, 2.0, 5.0))
    ]
    running, pending = bench.engine.queue()
    assert [r.id for r in (*running, *pending)] != []
    assert [r.id for r in sorted([*running, *pending], key=lambda r: (r.number, r.sequence))] == [
        ids[1],
        ids[0],
        ids[2],
    ]


async def test_unfinished_jobs_run_after_a_restart_each_once(tmp_path):
    store = Store.open(tmp_path / "jobs.db")
    first = await start(store)
    await first.settle()
    first.hold()
    ids = [await first.submit(an_image_prompt(seed=i)) for i in range(5)]
    await first.settle()
    await first.engine.close()
    store.close()
    store = Store.open(tmp_path / "jobs.db")
    second = await start(store)
    await asyncio.sleep(0.05)
    await second.settle()
    assert [len(second.of(JobSucceeded, id)) for id in ids] == [1] * 5
    assert {r.id for r in await store.history()} == set(ids)
    await second.engine.close()
    store.close()
