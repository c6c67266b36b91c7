"""What third-party nodes may do, from a prompt to the events that its client hears."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backend.calling import CallContext, current
from backend.engine import events as ev
from backend.graph.dynamic import DynamicPrompt
from backend.node import InputSpec, Result
from backend.ops import Call
from backend.settings import Cache
from backend.types import Blocked, NodeId
from tests.backend.engine.foreign import Bench, a_bench, an_input, echo, foreign, n


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with a_bench(tmp_path) as made:
        yield made


# -- order -----------------------------------------------------------------------------------------


async def test_of_what_is_ready_outputs_go_first_then_the_last_input_of_a_node(bench: Bench):
    await bench.run({"1": n("Int", v=1), "3": n("Echo", a=["1", 0]), "4": n("Echo", a=3)})
    assert [line for line in bench.told if line.startswith("executing")] == [
        *("executing 4", "executing 1", "executing 3")
    ]
    await bench.run({"1": n("Int", v=5), "2": n("Int", v=6), "3": n("Echo", a=["1", 0], b=["2", 0])})
    assert [line for line in bench.told if line.startswith("executing")] == [
        *("executing 2", "executing 1", "executing 3")
    ]


# -- lists -----------------------------------------------------------------------------------------


async def test_a_list_fans_out_and_a_list_consumer_gets_all_of_it(bench: Bench):
    await bench.run(
        {"1": n("List", n=3), "2": n("Echo", a=["1", 0], b=5), "3": n("EchoList", a=["1", 0], b=5)}
    )
    assert "executed 2 ['0|5', '1|5', '2|5']" in bench.told
    assert "executed 3 ['[0, 1, 2]|[5]']" in bench.told


async def test_an_empty_list_alone_leaves_its_input_out(bench: Bench):
    await bench.run({"1": n("List", n=0), "2": n("Echo", a=["1", 0])})
    assert bench.told[-2].startswith("error 2 TypeError")


async def test_an_empty_list_beside_others_is_an_index_error(bench: Bench):
    await bench.run({"1": n("List", n=0), "2": n("Echo", a=["1", 0], b=1)})
    assert bench.told[-2].startswith("error 2 IndexError")


# -- lazy inputs -----------------------------------------------------------------------------------

LAZY = {
    "1": n("Int", v=1),
    "2": n("Int", v=2),
    "3": n("Lazy", cond=True, t=["1", 0], f=["2", 0]),
    "4": n("Echo", a=["3", 0]),
}


async def test_only_the_lazy_input_that_is_needed_runs_and_the_node_begins_again(bench: Bench):
    await bench.run(LAZY)
    assert bench.told == [
        *("cached", "executing 3", "executing 1", "executing 3", "executing 4"),
        *("executed 4 ['1|None']", "success", "end"),
    ]


async def test_a_lazy_node_is_cached_whatever_it_did_not_ask_for(bench: Bench):
    await bench.run(LAZY)
    await bench.run(LAZY)
    assert bench.told == ["cached 1 3 4", "executed 4 ['1|None']", "success", "end"]


async def test_a_cached_lazy_source_is_delivered_at_once(bench: Bench):
    await bench.run({"1": n("Int", v=1), "4": n("Echo", a=["1", 0])})
    await bench.run(LAZY)
    assert bench.told[:3] == ["cached 1", "executing 3", "executing 4"]


async def test_what_lies_behind_a_lazy_input_is_part_of_the_key(bench: Bench):
    await bench.run(LAZY)
    await bench.run({**LAZY, "1": n("Int", v=7)})
    assert "executed 4 ['7|None']" in bench.told


async def test_several_rounds_of_asking(tmp_path: Path):
    def ask(a: object = None, b: object = None) -> list[str]:
        return ["a"] if a is None else ["b"] if b is None else []

    inputs = (an_input("a", lazy=True), an_input("b", lazy=True))
    spec = foreign("Rounds", lambda a, b: a + b, inputs, ["INT"], check_lazy=ask)
    async with a_bench(tmp_path, spec) as bench:
        prompt = {"1": n("Int", v=1), "2": n("Int", v=2), "3": n("Rounds", a=["1", 0], b=["2", 0])}
        await bench.run({**prompt, "4": n("Echo", a=["3", 0])})
        assert bench.told.count("executing 3") == 3
        assert "executed 4 ['3|None']" in bench.told


@pytest.mark.parametrize(
    ("asked", "problem"), [("nothing", "it has no such input"), ("extra", "that value is a constant")]
)
async def test_asking_for_what_no_node_makes_is_an_error(tmp_path: Path, asked: str, problem: str):
    spec = foreign("Odd", lambda a: a, [an_input("a")], ["INT"], check_lazy=lambda a: [asked])
    spec = foreign("Odd", lambda a, **more: a, [an_input("a")], ["INT"], check_lazy=lambda a, **more: [asked])
    async with a_bench(tmp_path, spec) as bench:
        await bench.run({"1": n("Odd", a=1, extra=2), "2": n("Echo", a=["1", 0])})
        assert bench.told[-2] == (
            f"error 1 comfy_execution.graph.NodeInputError: Node 1 says it needs input {asked}, but {problem}"
        )


# -- expansion ---------------------------------------------------------------------------------------


def an_expansion(cycle: bool = False) -> dict[str, dict[str, object]]:
    return {"7": n("Expand", v=2, cycle=cycle), "8": n("Echo", a=["7", 0])}


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


# -- blockers ----------------------------------------------------------------------------------------


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


# -- coroutines --------------------------------------------------------------------------------------


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


# -- progress, messages, interrupts ------------------------------------------------------------------


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


# -- inputs ------------------------------------------------------------------------------------------


async def test_undeclared_links_are_passed_on_and_literals_dropped(tmp_path: Path):
    spec = foreign("Open", lambda **more: sorted(more), (), ["*"])
    async with a_bench(tmp_path, spec) as bench:
        await bench.run({"1": n("Int", v=1), "2": n("Open", x=["1", 0], y=2), "3": n("Echo", a=["2", 0])})
        assert "executed 3 [\"['x']|None\"]" in bench.told


async def test_open_inputs_take_literals_too(tmp_path: Path):
    spec = foreign(
        "Open",
        lambda **more: sorted(more),
        (),
        ["*"],
        open_inputs=lambda name: InputSpec(name, "*", {}, optional=True),
    )
    async with a_bench(tmp_path, spec) as bench:
        await bench.run({"2": n("Open", y=2), "3": n("Echo", a=["2", 0])})
        assert "executed 3 [\"['y']|None\"]" in bench.told


async def test_a_raw_link_is_handed_over_after_its_source_ran(tmp_path: Path):
    spec = foreign("Raw", lambda a: a, [InputSpec("a", "*", {}, raw_link=True)], ["*"])
    async with a_bench(tmp_path, spec) as bench:
        prompt = {"1": n("Int", v=1), "2": n("Raw", a=["1", 0]), "3": n("Echo", a=["2", 0])}
        await bench.run(prompt)
        assert bench.told.index("executing 1") < bench.told.index("executing 2")
        assert "executed 3 [\"['1', 0]|None\"]" in bench.told
        await bench.run({**prompt, "1": n("Int", v=2)})
        assert "executing 2" in bench.told  # another source: another key


async def test_hidden_inputs_are_filled_whatever_the_prompt_says(tmp_path: Path):
    seen: list[dict[str, object]] = []
    hidden = {
        "prompt": "PROMPT",
        "dynprompt": "DYNPROMPT",
        "info": "EXTRA_PNGINFO",
        "id": "UNIQUE_ID",
        "token": "AUTH_TOKEN_COMFY_ORG",
        "key": "API_KEY_COMFY_ORG",
    }
    spec = foreign("Hidden", lambda **given: seen.append(given), (), (), hidden=hidden, output_node=True)
    prompt = {"9": n("Hidden", id="x", prompt="y")}
    extra = {"extra_pnginfo": {"workflow": 1}, "auth_token_comfy_org": "t"}
    async with a_bench(tmp_path, spec) as bench:
        await bench.run(prompt, extra=extra)
    dynprompt = seen[0].pop("dynprompt")
    assert seen[0] == {"prompt": prompt, "info": {"workflow": 1}, "id": "9", "token": "t", "key": None}
    assert isinstance(dynprompt, DynamicPrompt)
    assert dynprompt.get_node("9") == prompt["9"]
    assert dynprompt.all_node_ids() == {"9"}


async def test_a_node_object_lives_across_prompts(tmp_path: Path):
    class Counter:
        def __init__(self) -> None:
            self.calls = 0

    def count(itself: Counter, v: int) -> Result:
        itself.calls += 1
        return echo(itself.calls, v)

    spec = foreign("Count", count, [an_input("v")], output_node=True, make=Counter)
    async with a_bench(tmp_path, spec) as bench:
        for v in range(2):
            await bench.run({"1": n("Count", v=v)})
        assert "executed 1 ['2|1']" in bench.told
        await bench.run({"2": n("Count", v=5)})
        assert "executed 2 ['1|5']" in bench.told


# -- fingerprints and validators ---------------------------------------------------------------------


async def test_not_a_number_is_never_equal_and_its_neighbours_stay_cached(bench: Bench):
    prompt = {"1": n("Always", v=1), "2": n("Int", v=1), "3": n("Echo", a=["1", 0], b=["2", 0])}
    await bench.run(prompt)
    await bench.run(prompt)
    assert bench.told == [*("cached 2", "executing 1", "executing 3", "executed 3 ['1|1']", "success", "end")]


async def test_a_fingerprint_is_taken_once_per_prompt_with_links_as_none(tmp_path: Path):
    seen: list[object] = []

    async def fingerprint(a: object, b: object) -> str:
        await asyncio.sleep(0)
        seen.append((a, b))
        return "same"

    spec = foreign("Print", echo, (an_input("a"), an_input("b")), output_node=True, fingerprint=fingerprint)
    async with a_bench(tmp_path, spec) as bench:
        prompt = {"1": n("Int", v=1), "2": n("Print", a=["1", 0], b=3)}
        await bench.run(prompt)
        await bench.run(prompt)
        assert seen == [(None, 3), (None, 3)]
        assert bench.told[0] == "cached 1 2"


async def test_a_fingerprint_that_raises_makes_the_node_run(tmp_path: Path):
    def fingerprint(a: object) -> str:
        raise OSError("gone")

    spec = foreign("Print", echo, [an_input("a")], output_node=True, fingerprint=fingerprint)
    async with a_bench(tmp_path, spec) as bench:
        for _ in range(2):
            await bench.run({"1": n("Print", a=1)})
            assert bench.told == ["cached", "executing 1", "executed 1 ['1|None']", "success", "end"]


async def test_a_failed_run_keeps_the_results_of_the_nodes_that_finished(tmp_path: Path):
    def fail(a: object) -> object:
        raise ValueError("no")

    spec = foreign("Fail", fail, [an_input("a")], output_node=True)
    async with a_bench(tmp_path, spec) as bench:
        await bench.run({"1": n("Int", v=1), "2": n("Fail", a=["1", 0])})
        await bench.run({"1": n("Int", v=1), "2": n("Fail", a=["1", 0])})
        assert bench.told[0] == "cached 1"


# -- how long results are kept -----------------------------------------------------------------------

CHAIN = {"1": n("Int", v=1), "2": n("Add", a=["1", 0], b=2), "3": n("Echo", a=["2", 0])}
OTHER = {"1": n("Int", v=5), "2": n("Add", a=["1", 0], b=2), "3": n("Echo", a=["2", 0])}


async def test_without_a_cache_every_run_executes_all(tmp_path: Path):
    async with a_bench(tmp_path, cache=Cache("none")) as bench:
        for _ in range(3):
            await bench.run(CHAIN)
            executing = ["executing 1", "executing 2", "executing 3"]
            assert bench.told == ["cached", *executing, "executed 3 ['3|None']", "success", "end"]
        await bench.run(LAZY)
        await bench.run(an_expansion())
        await bench.run(an_expansion())
        assert "executing 7.0.0.1 on 7" in bench.told


async def test_the_classic_cache_keeps_the_last_prompt_alone(tmp_path: Path):
    async with a_bench(tmp_path, cache=Cache("classic")) as bench:
        await bench.run(CHAIN)
        await bench.run(CHAIN)
        assert bench.told[0] == "cached 1 2 3"
        await bench.run(OTHER)
        await bench.run(CHAIN)
        assert bench.told[0] == "cached"


async def test_the_lru_cache_keeps_results_over_prompts_up_to_its_number(tmp_path: Path):
    async with a_bench(tmp_path, cache=Cache("lru", entries=6)) as bench:
        for prompt in (CHAIN, OTHER, CHAIN):
            await bench.run(prompt)
        assert bench.told[0] == "cached 1 2 3"
        await bench.run({"1": n("Int", v=9), "3": n("Echo", a=["1", 0])})
        await bench.run(OTHER)  # its oldest results had to go
        assert bench.told[0] != "cached 1 2 3"


async def test_a_prompt_larger_than_the_lru_cache_runs_to_its_end(tmp_path: Path):
    async with a_bench(tmp_path, cache=Cache("lru", entries=1)) as bench:
        await bench.run(LAZY)
        assert bench.told[-2] == "success"
        await bench.run(an_expansion())
        assert bench.told[-2] == "success"
