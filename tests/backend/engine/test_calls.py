"""Third-party nodes while they run: coroutines, progress, messages, interrupts, ops that they ask for."""

import time
from pathlib import Path

from backend.calling import CallContext, current
from backend.engine import events as ev
from backend.ops import Call
from backend.types import NodeId
from tests.backend.engine.foreign import Bench, a_bench, an_input, foreign, n


async def test_coroutines_overlap(bench: Bench):
    began = time.monotonic()
    many = {str(i): n("Sleep", v=i, delay=0.5) for i in range(6)}
    await bench.run({**many, **{f"e{i}": n("Echo", a=[i, 0]) for i in many}})
    assert time.monotonic() - began < 2
    assert bench.told.index("executing 5") < bench.told.index("executing e0")


async def test_a_coroutine_runs_once_per_item_at_once(bench: Bench):
    began = time.monotonic()
    prompt = {"1": n("List", n=5), "2": n("Sleep", v=["1", 0], delay=0.4), "3": n("EchoList", a=["2", 0])}
    await bench.run(prompt)
    assert time.monotonic() - began < 1.5
    assert "executed 3 ['[0, 1, 2, 3, 4]|None']" in bench.told


async def test_a_coroutine_that_waits_is_interrupted(bench: Bench):
    job = await bench.submit({"1": n("Sleep", v=1, delay=30.0), "2": n("Echo", a=["1", 0])})
    await bench.until(lambda e: isinstance(e, ev.NodeExecuting))
    await bench.engine.interrupt(job)  # type: ignore[arg-type]
    assert bench.told[-2:] == ["interrupted 1", "end"]
    await bench.run({"1": n("Sleep", v=2, delay=0.0), "2": n("Echo", a=["1", 0])})
    assert bench.told[-2] == "success"


async def test_progress_reaches_the_job(bench: Bench):
    await bench.run({"1": n("Steps", total=3), "2": n("Echo", a=["1", 0])})
    steps = [(e.node, e.value, e.max) for e in bench.events if isinstance(e, ev.StepProgress)]
    assert steps == [("1", 1, 3), ("1", 2, 3), ("1", 3, 3)]


async def test_a_node_that_reports_is_interrupted_at_its_next_report(bench: Bench):
    job = await bench.submit({"1": n("Endless")})
    await bench.until(lambda e: isinstance(e, ev.NodeExecuting))
    await bench.engine.interrupt(job)  # type: ignore[arg-type]
    assert bench.told[-2:] == ["interrupted 1", "end"]
    await bench.run({"1": n("Int", v=1), "2": n("Echo", a=["1", 0])})  # the thread is free again
    assert bench.told[-2] == "success"


async def test_a_node_may_interrupt_its_own_job(bench: Bench):
    record = await bench.run({"1": n("GiveUp")})
    assert bench.told[-2:] == ["interrupted 1", "end"]
    assert record.status == "cancelled"


async def test_a_call_knows_whose_it_is_and_speaks_to_clients(tmp_path: Path):
    seen: list[CallContext | None] = []

    def speak(v: int) -> int:
        call = current()
        seen.append(call)
        assert call is not None
        call.line.send("pack.event", {"v": v}, call.client)
        call.line.show_text("hello", NodeId("1"))
        return v

    async with a_bench(tmp_path, foreign("Speak", speak, [an_input("v")])) as bench:
        record = await bench.run(
            {"0": n("List", n=2), "1": n("Speak", v=["0", 0]), "2": n("Echo", a=["1", 0])}
        )
        assert [(c.job, c.client, c.node, c.list_index) for c in seen if c] == [
            (record.id, "c", "1", 0),
            (record.id, "c", "1", 1),
        ]
        assert "message pack.event {'v': 1}" in bench.told
        assert "text 1 hello" in bench.told
        assert current() is None


async def test_a_node_computes_an_op_in_the_shared_engine(tmp_path: Path):
    def outer(v: int) -> object:
        call = current()
        assert call is not None
        asked = Call("Twice", {"v": (v,)}, NodeId("x"))
        return call.line.compute(asked)[0][0]

    twice = foreign("Twice", lambda v: 2 * v, [an_input("v")], ["INT"], serial=False, dynamic=False)
    async with a_bench(tmp_path, twice, foreign("Outer", outer, [an_input("v")], ["INT"])) as bench:
        await bench.run({"1": n("Outer", v=4), "2": n("Echo", a=["1", 0])})
        assert "executed 2 ['8|None']" in bench.told


async def test_what_an_asked_op_raises_is_raised_in_the_node(tmp_path: Path):
    def outer() -> object:
        call = current()
        assert call is not None
        return call.line.compute(Call("Bad", {}, NodeId("x")))

    def bad() -> int:
        raise ValueError("no good")

    specs = (
        foreign("Bad", bad, (), ["INT"], serial=False, dynamic=False),
        foreign("Outer", outer, (), ["INT"]),
    )
    async with a_bench(tmp_path, *specs) as bench:
        await bench.run({"1": n("Outer"), "2": n("Echo", a=["1", 0])})
        assert bench.told[-2] == "error 1 Exception: ValueError: no good"
