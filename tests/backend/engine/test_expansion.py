"""Nodes that stand for others, and blockers."""

import time
from pathlib import Path

import pytest

from backend.calling import current
from backend.engine import events as ev
from backend.node import Result
from backend.types import Blocked
from tests.backend.engine.foreign import Bench, a_bench, an_expansion, an_input, foreign, n


async def test_a_node_expands_into_others_that_show_on_it(bench: Bench):
    record = await bench.run(an_expansion())
    assert bench.told == [
        *("cached", "executing 7", "executing 7.0.0.1 on 7", "executing 7.0.0.2 on 7"),
        *("executed 7.0.0.2 ['2|None']", "executing 8", "executed 8 ['2|None']", "success", "end"),
    ]
    assert record.outputs == {"8": {"v": ["2|None"]}, "7.0.0.2": {"v": ["2|None"]}}
    assert record.meta["7.0.0.2"] == {
        **{"node_id": "7.0.0.2", "display_node": "7", "parent_node": "7", "real_node_id": "7"}
    }


async def test_progress_says_where_an_inner_node_belongs(bench: Bench):
    await bench.run(an_expansion())
    last = next(e for e in reversed(bench.events) if isinstance(e, ev.StateChanged))
    inner = next(node for node in last.nodes if node.node == "7.0.0.1")
    assert (inner.display_node, inner.parent_node, inner.real_node) == ("7", "7", "7")


async def test_a_cached_expansion_shows_nothing_of_its_inside(bench: Bench):
    await bench.run(an_expansion())
    record = await bench.run(an_expansion())
    assert bench.told == ["cached 7 8", "executed 8 ['2|None']", "success", "end"]
    assert set(record.outputs) == {"8"}


async def test_an_output_node_that_expands_runs_once(tmp_path: Path):
    def inner(unique_id: str) -> Result:
        return Result(([f"{unique_id}.1", 0],), expand={f"{unique_id}.1": n("Int", v=3)})

    spec = foreign("Outer", inner, (), ["INT"], hidden={"unique_id": "UNIQUE_ID"}, output_node=True)
    async with a_bench(tmp_path, spec) as bench:
        await bench.run({"1": n("Outer"), "2": n("Echo", a=["1", 0])})
        assert bench.told[1:] == [
            *("executing 1", "executing 1.1 on 1", "executing 2", "executed 2 ['3|None']", "success", "end")
        ]


async def test_a_circle_made_by_expansion_is_the_expanding_nodes_error(bench: Bench):
    await bench.run(an_expansion(cycle=True))
    assert bench.told[1:] == [
        *("executing 7", "error 7 graph.DependencyCycleError: Dependency cycle detected", "end")
    ]
    failed = next(e for e in bench.events if isinstance(e, ev.JobFailed))
    assert failed.inputs is None
    assert failed.message == "Dependency cycle detected"


async def test_an_inner_nodes_error_is_told_of_the_submitted_node(tmp_path: Path):
    def inner(unique_id: str) -> Result:
        return Result(([f"{unique_id}.1", 0],), expand={f"{unique_id}.1": n("Add", a=1, b="x")})

    spec = foreign("Outer", inner, (), ["INT"], hidden={"unique_id": "UNIQUE_ID"})
    async with a_bench(tmp_path, spec) as bench:
        await bench.run({"1": n("Outer"), "2": n("Echo", a=["1", 0])})
        assert bench.told[-2].startswith("error 1 TypeError")


@pytest.mark.parametrize(
    ("fragment", "error"),
    [
        ({"2": n("Int", v=1)}, "execution.DuplicateNodeError"),
        ({"x": n("Nonsense")}, "KeyError: 'Nonsense'"),
        ({"x": n("Echo", a=["y", 0])}, "comfy_execution.graph.NodeNotFoundError: Node y"),
    ],
)
async def test_a_fragment_that_is_not_what_it_should_be_is_the_nodes_error(
    tmp_path: Path, fragment: dict[str, dict[str, object]], error: str
):
    spec = foreign("Outer", lambda: Result((1,), expand=fragment), (), ["INT"])
    async with a_bench(tmp_path, spec) as bench:
        await bench.run({"1": n("Outer"), "2": n("Echo", a=["1", 0])})
        assert bench.told[-2].startswith(f"error 1 {error}")


async def test_some_calls_of_a_list_expand_and_others_return(tmp_path: Path):
    def maybe(v: int, unique_id: str) -> object:
        if v % 2:
            return v
        inner = f"{unique_id}.{v}"
        return Result(([inner, 0],), expand={inner: n("Add", a=v, b=100)})

    spec = foreign("Maybe", maybe, [an_input("v")], ["INT"], hidden={"unique_id": "UNIQUE_ID"})
    async with a_bench(tmp_path, spec) as bench:
        await bench.run({"1": n("List", n=3), "2": n("Maybe", v=["1", 0]), "3": n("EchoList", a=["2", 0])})
        assert "executed 3 ['[100, 1, 102]|None']" in bench.told


async def test_recursion_counts_down(tmp_path: Path):
    def down(v: int, total: int, unique_id: str) -> object:
        if v == 0:
            return total
        inner = f"{unique_id}.0"
        return Result(([inner, 0],), expand={inner: n("Down", v=v - 1, total=total + v)})

    inputs = (an_input("v"), an_input("total"))
    spec = foreign("Down", down, inputs, ["INT"], hidden={"unique_id": "UNIQUE_ID"})
    async with a_bench(tmp_path, spec) as bench:
        await bench.run({"1": n("Down", v=30, total=0), "2": n("Echo", a=["1", 0])})
        assert "executed 2 ['465|None']" in bench.told


async def test_values_of_a_fragment_are_python_objects(tmp_path: Path):
    class Thing:
        def __repr__(self) -> str:
            return "a thing"

    spec = foreign("Outer", lambda: Result((["i", 0],), expand={"i": n("Echo", a=Thing())}), (), ["*"])
    async with a_bench(tmp_path, spec) as bench:
        await bench.run({"1": n("Outer"), "2": n("Echo", a=["1", 0])})
        assert "executed 2 ['a thing|None']" in bench.told


async def test_two_jobs_with_other_ids_share_an_expanding_call(tmp_path: Path):
    calls = []

    def outer(delay: float) -> Result:
        call = current()
        assert call is not None
        calls.append(call.node)
        time.sleep(delay)
        inner = f"{call.node}.0.0.1"
        return Result(([inner, 0],), expand={inner: n("Int", v=3)})

    spec = foreign("Outer", outer, [an_input("delay")], ["INT"])
    async with a_bench(tmp_path, spec) as bench:
        first = await bench.submit({"1": n("Outer", delay=0.3), "2": n("Echo", a=["1", 0])})
        second = await bench.submit({"5": n("Outer", delay=0.3), "6": n("Echo", a=["5", 0])})
        await bench.until(lambda e: isinstance(e, ev.JobSucceeded) and e.job == first)
        await bench.until(lambda e: isinstance(e, ev.JobSucceeded) and e.job == second)
        assert calls == ["1"]
        assert "executing 5.0.0.1 on 5" in bench.told


def a_blocked_prompt(message: str) -> dict[str, dict[str, object]]:
    return {"1": n("Block", v=1, msg=message), "3": n("Echo", a=["1", 0]), "4": n("Echo", a=3)}


async def test_a_silent_blocker_keeps_what_follows_from_being_called(bench: Bench):
    await bench.run(a_blocked_prompt(""))
    assert "executing 3" in bench.told
    assert [line for line in bench.told if line.startswith(("executed", "blocked", "error"))] == [
        "executed 4 ['3|None']"
    ]
    assert bench.told[-2] == "success"


async def test_a_blockers_message_is_told_by_the_first_consumer_and_the_job_goes_on(bench: Bench):
    prompt = {"1": n("Block", v=1, msg="no!"), "2": n("Add", a=["1", 0], b=1), "3": n("Echo", a=["2", 0])}
    record = await bench.run(prompt)
    assert [line for line in bench.told if "blocked" in line] == ["blocked 2 Execution Blocked: no!"]
    assert "executing 3" in bench.told
    assert record.status == "completed"


async def test_a_cached_blocked_output_shows_null(bench: Bench):
    await bench.run(a_blocked_prompt(""))
    await bench.run(a_blocked_prompt(""))
    assert bench.told == ["cached 1 3 4", "executed 3 null", "executed 4 ['3|None']", "success", "end"]


async def test_only_the_blocked_items_of_a_list_are_left_out(tmp_path: Path):
    spec = foreign("Odd", lambda v: Blocked() if v % 2 else v, [an_input("v")], ["INT"])
    async with a_bench(tmp_path, spec) as bench:
        prompt = {"1": n("List", n=3), "2": n("Odd", v=["1", 0]), "3": n("Echo", a=["2", 0])}
        await bench.run({**prompt, "4": n("EchoList", a=["2", 0])})
        assert "executed 3 ['0|None', '2|None']" in bench.told
        assert not any(line.startswith("executed 4") for line in bench.told)
