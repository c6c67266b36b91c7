"""What ends jobs: a fault of the engine's own, and which node a failure is told of."""

import logging
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from backend.engine.events import JobFailed, JobSucceeded, NodeExecuting, NodesCached
from backend.engine.fleet import HOST
from backend.engine.store import Store
from backend.guiders import BasicGuider, Guider, Noise, Sampler, Schedule
from backend.node import node
from backend.ops import Awaiting, Call, Denoise, Expanded, Identify, Op, Row
from backend.references import Clip, Model
from backend.types import Conditioning, DeviceId, Latent, NodeId, OpKey
from backend.worker.messages import Failed, Finished, Lost, Progress, Stored, Unfinished
from tests.backend.engine.foreign import INT, foreign, n
from tests.backend.engine.test_loop import GPU, Bench, FakeValue, start
from tests.backend.graph.toys import a_file, a_sum_prompt, an_image_prompt, renumbered


@node("Guide", category="toys")
def guide(*, model: Model, positive: Conditioning) -> Guider:
    """A reference that holds a result that does not exist yet."""
    return BasicGuider(model, positive)


@node("Guided", category="toys")
def guided(*, guider: Guider, latent: Latent, seed: int) -> Op[Latent]:
    return Denoise(guider, latent, Noise(seed), Sampler("euler"), Schedule("normal", 4))


@node("Unread", category="toys")
def unread(*, name: str) -> tuple[Model, Clip]:
    """A checkpoint that must be read through first, and never is."""
    raise Awaiting(Identify(a_file(name)))


GROW = foreign("Grow", lambda v: v, INT)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    store = Store.open(tmp_path / "jobs.db")
    made = await start(store, nodes=(guide, guided, unread, GROW))
    await made.settle()
    yield made
    await made.engine.close()
    store.close()


def hold_all(bench: Bench) -> None:
    bench.hold()
    bench.host.auto = False


async def run_up_to(bench: Bench, kind: str) -> OpKey:
    """Let devices finish what they run until an op of that kind does."""
    for _ in range(10):
        await bench.settle()
        if any(type(op).__name__ == kind for op in bench.gpu.running.values()):
            return bench.gpu.one(kind)
        for key in list(bench.gpu.running):
            bench.gpu.finish(key)
    raise AssertionError(f"no {kind} runs")


def call_of(bench: Bench, node: str) -> OpKey:
    """The call of a node that the host runs."""
    return next(k for k, op in bench.host.running.items() if isinstance(op, Call) and op.node == node)


def fail(bench: Bench, key: OpKey, device: DeviceId = GPU) -> None:
    (bench.gpu if device == GPU else bench.host).running.pop(key)
    bench.engine.report(device, Failed(key, "ValueError", "broken\n", ("line",)))


# -- faults of the engine's own ----------------------------------------------------------------------


async def test_a_report_whose_handler_raises_ends_its_job_and_no_other(bench, caplog):
    bench.hold()
    jobs = {await bench.submit(an_image_prompt(text=text), client) for text, client in ("ab", "cd")}
    broken = await run_up_to(bench, "Denoise")
    with caplog.at_level(logging.ERROR):
        bench.engine.report(GPU, Progress(broken, "half", 4))  # a worker never says this
        await bench.settle()
    (event,) = [e for e in bench.events if isinstance(e, JobFailed)]
    bad, (good,) = event.job, jobs - {event.job}
    assert (event.node, event.type) == ("4", "EngineFault")
    assert "TypeError" in event.message
    assert "its log has the traceback" in event.message
    assert any("in _trace" in line for line in event.traceback)
    assert "Traceback" in caplog.text
    entry = await bench.engine.store.history_one(bad)
    assert entry.status == "failed"
    assert entry.messages[-1][0] == "execution_error"
    bench.release()
    bench.engine.report(GPU, Lost("killed"))
    await bench.settle()
    assert len(bench.of(JobSucceeded, good)) == 1
    assert bench.engine.remaining() == 0


class Unreadable(FakeValue):
    def get(self) -> tuple[tuple[object, ...], ...]:
        raise OSError("no such segment")


async def test_of_the_jobs_that_share_an_op_only_that_ends_whose_own_part_raises(bench):
    hold_all(bench)
    bad = await bench.submit(a_sum_prompt(1, width_from_sum=True))  # reads the sum to be lowered
    good = await bench.submit(a_sum_prompt(1), "you")  # hands it on
    await bench.settle()
    bench.engine.report(HOST, Finished(call_of(bench, "Add"), Unreadable(((3,),)), (1,)))
    await bench.settle()
    bench.engine.report(HOST, Finished(call_of(bench, "Show"), FakeValue(()), ()))
    await bench.settle()
    (event,) = bench.of(JobFailed, bad)
    assert "OSError: no such segment" in event.message
    assert len(bench.of(JobSucceeded, good)) == 1


async def test_an_op_that_can_not_be_started_ends_its_job_and_frees_its_device(bench, monkeypatch):
    def refuse(key: OpKey, op: object, inputs: Mapping[OpKey, Stored], *preview: object) -> None:
        raise OSError("too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(bench.gpu, "run", refuse)
        bad = await bench.submit(an_image_prompt(text="bad"))
        await bench.settle()
    (event,) = bench.of(JobFailed, bad)
    assert (event.node, event.type) == ("2", "EngineFault")
    good = await bench.submit(an_image_prompt(text="good"))
    await bench.settle()
    assert len(bench.of(JobSucceeded, good)) == 1


async def test_a_worker_that_can_not_be_replaced_ends_the_jobs_that_it_ran(bench, monkeypatch):
    bench.hold()
    job = await bench.submit(an_image_prompt())
    await run_up_to(bench, "EncodeText")

    def refuse() -> None:
        raise OSError("no memory for a process")

    monkeypatch.setitem(bench.engine._board._make, GPU, refuse)
    bench.engine.report(GPU, Lost("killed"))
    await bench.settle()
    (event,) = bench.of(JobFailed, job)
    assert "no memory for a process" in event.message


async def test_a_listener_that_raises_costs_no_job_and_no_other_listener(bench, caplog):
    def deaf(event: object) -> None:
        raise RuntimeError("deaf")

    bench.engine.subscribe(deaf)
    heard: list[object] = []
    bench.engine.subscribe(heard.append)
    job = await bench.submit(an_image_prompt())
    await bench.settle()
    assert any(isinstance(e, JobSucceeded) and e.job == job for e in heard)
    assert "deaf" in caplog.text


# -- the node that a failure is told of --------------------------------------------------------------


@pytest.mark.parametrize(("kind", "node"), [("EncodeText", "2"), ("Denoise", "4"), ("DecodeLatent", "5")])
async def test_a_failing_op_is_told_of_the_node_that_made_it_to_each_of_its_jobs(bench, kind, node):
    bench.hold()
    mine = await bench.submit(an_image_prompt())
    yours = await bench.submit(renumbered(an_image_prompt()), "you")
    fail(bench, await run_up_to(bench, kind))
    await bench.settle()
    told = [bench.of(JobFailed, job)[0] for job in (mine, yours)]
    assert [(e.node, e.type) for e in told] == [(node, "ValueError"), (f"x{node}", "ValueError")]


async def test_of_equal_nodes_of_one_prompt_the_first_is_told(bench):
    bench.hold()
    prompt = an_image_prompt()
    prompt["0"] = dict(prompt["2"])
    prompt["4"]["inputs"]["positive"] = ["0", 0]
    prompt["9"] = {"class_type": "Show", "inputs": {"value": ["2", 0]}}
    job = await bench.submit(prompt)
    fail(bench, await run_up_to(bench, "EncodeText"))
    await bench.settle()
    assert bench.of(JobFailed, job)[0].node in ("0", "2")
    assert {e.node for e in bench.of(NodeExecuting, job)} >= {"0", "2"}


async def test_a_file_that_can_not_be_read_through_is_told_of_its_loader(bench):
    hold_all(bench)
    prompt = an_image_prompt()
    prompt["1"] = {"class_type": "Unread", "inputs": {"name": "a"}}
    del prompt["5"]
    prompt["6"]["inputs"]["value"] = ["4", 0]
    job = await bench.submit(prompt)
    await bench.settle()
    (key,) = [key for key, op in bench.host.running.items() if isinstance(op, Identify)]
    fail(bench, key, HOST)
    await bench.settle()
    assert bench.of(JobFailed, job)[0].node == "1"


async def test_an_op_behind_a_reference_that_waits_is_told_of_its_own_node(bench):
    """A guider holds the text's result, and its sampler waits for a number."""
    hold_all(bench)
    prompt = an_image_prompt()
    prompt["7"] = {"class_type": "Add", "inputs": {"a": 1}}
    prompt["8"] = {"class_type": "Guide", "inputs": {"model": ["1", 0], "positive": ["2", 0]}}
    inputs = {"guider": ["8", 0], "latent": ["3", 0], "seed": ["7", 0]}
    prompt["4"] = {"class_type": "Guided", "inputs": inputs}
    job = await bench.submit(prompt)
    fail(bench, await run_up_to(bench, "EncodeText"))  # it need not wait for the number
    await bench.settle()
    assert bench.of(JobFailed, job)[0].node == "2"
    assert "2" in [e.node for e in bench.of(NodeExecuting, job)]
    assert [e.nodes for e in bench.of(NodesCached, job)] == [()]


async def test_an_op_whose_result_was_there_and_went_is_told_of_its_own_node(bench):
    await bench.submit(an_image_prompt())
    await bench.settle()
    hold_all(bench)
    job = await bench.submit(a_sum_prompt(1, width_from_sum=True))
    await bench.settle()
    bench.engine._board.results.clear()
    for key in list(bench.host.running):
        bench.host.finish(key)
    fail(bench, await run_up_to(bench, "EncodeText"))
    await bench.settle()
    assert bench.of(JobFailed, job)[0].node == "2"


async def test_an_op_of_an_expansion_is_told_of_the_submitted_node(bench):
    hold_all(bench)
    prompt = {"1": n("Grow", v=1), "2": n("Show", value=["1", 0])}
    job = await bench.submit(prompt)
    await bench.settle()
    (call,) = bench.host.running
    bench.host.running.pop(call)
    inner = {"1.a": n("Loader", name="a"), "1.b": n("Text", clip=["1.a", 1], text="x")}
    bench.engine.report(HOST, Unfinished(call, Expanded(NodeId("1"), (Row((["1.b", 0],), inner),))))
    fail(bench, await run_up_to(bench, "EncodeText"))
    await bench.settle()
    assert bench.of(JobFailed, job)[0].node == "1"
