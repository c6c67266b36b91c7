"""What third-party nodes are given: order, lists, lazy inputs, links and hidden inputs."""

from pathlib import Path

import pytest

from backend.engine import events as ev
from backend.graph.dynamic import DynamicPrompt
from backend.node import InputSpec, Result
from backend.worker.host import Host
from tests.backend.engine.foreign import LAZY, Bench, a_bench, an_input, echo, foreign, n


async def test_of_what_is_ready_outputs_go_first_then_the_last_input_of_a_node(bench: Bench):
    await bench.run({"1": n("Int", v=1), "3": n("Echo", a=["1", 0]), "4": n("Echo", a=3)})
    assert [line for line in bench.told if line.startswith("executing")] == [
        *("executing 4", "executing 1", "executing 3")
    ]
    await bench.run({"1": n("Int", v=5), "2": n("Int", v=6), "3": n("Echo", a=["1", 0], b=["2", 0])})
    assert [line for line in bench.told if line.startswith("executing")] == [
        *("executing 2", "executing 1", "executing 3")
    ]


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
    spec = foreign("Odd", lambda a, **more: a, [an_input("a")], ["INT"], check_lazy=lambda a, **more: [asked])
    async with a_bench(tmp_path, spec) as bench:
        await bench.run({"1": n("Odd", a=1, extra=2), "2": n("Echo", a=["1", 0])})
        assert bench.told[-2] == (
            f"error 1 comfy_execution.graph.NodeInputError: Node 1 says it needs input {asked}, but {problem}"
        )


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


async def test_a_node_that_runs_out_of_memory_has_models_dropped(tmp_path: Path, monkeypatch):
    def hungry() -> None:
        raise MemoryError("no room for more")

    dropped = []
    monkeypatch.setattr(Host, "unload", lambda host: dropped.append(host))
    async with a_bench(tmp_path, foreign("Hungry", hungry, output_node=True, outputs=())) as bench:
        await bench.run({"1": n("Hungry")})
        failed = next(e for e in bench.events if isinstance(e, ev.JobFailed))
    assert len(dropped) == 1
    assert failed.message.startswith("no room for more\nMemory ran out")
