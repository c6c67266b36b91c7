"""What of third-party nodes runs again: fingerprints, and how long results are kept."""

import asyncio
from pathlib import Path

from backend.settings import Cache
from tests.backend.engine.foreign import LAZY, Bench, a_bench, an_expansion, an_input, echo, foreign, n


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
