from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.engine.results import Result, Results
from backend.engine.shelf import Shelf
from backend.settings import Cache
from backend.types import OpKey
from backend.worker.exchange import Value


@dataclass
class FakeValue:
    nbytes: int
    closed: int = 0

    def get(self) -> tuple[tuple[object, ...], ...]:
        return ((self.nbytes,),)

    def close(self) -> None:
        self.closed += 1


def a_result(mib: float = 1.0, seconds: float = 1.0) -> Result:
    return Result(FakeValue(int(mib * 2**20)), (1,), seconds)


def test_what_is_cheap_to_make_again_goes_first():
    results = Results(3 << 20)
    for name, seconds in (("cheap", 0.01), ("dear", 9.0), ("middling", 1.0)):
        results.put(OpKey(name), a_result(seconds=seconds))
    assert results.shrink() == ["cheap"]
    assert results.nbytes <= 3 << 20


def test_a_pinned_result_stays():
    results = Results(1 << 20)
    results.put(OpKey("a"), a_result())
    results.put(OpKey("b"), a_result(seconds=0.1))
    results.pin(OpKey("b"))
    assert results.shrink() == ["a"]
    results.clear()
    assert OpKey("b") in results
    results.unpin(OpKey("b"))
    results.clear()
    assert OpKey("b") not in results


def test_costly_results_that_nobody_uses_age_and_go():
    results = Results(4 << 20)
    results.put(OpKey("once dear"), a_result(seconds=3.0))
    for i in range(200):
        results.put(OpKey(f"cheap {i}"), a_result(seconds=0.5))
        results.shrink()
    assert OpKey("once dear") not in results


def test_a_second_equal_result_is_given_back():
    results, first, second = Results(1 << 20), a_result(), a_result()
    results.put(OpKey("a"), first)
    results.put(OpKey("a"), second)
    assert results.get(OpKey("a")) is first
    assert (first.value.closed, second.value.closed) == (0, 1)


@given(
    st.lists(st.tuples(st.integers(0, 20), st.floats(0.01, 2), st.floats(0, 10), st.booleans()), max_size=60)
)
def test_the_budget_holds_whatever_comes_and_what_goes_is_closed_once(puts):
    results, made = Results(3 << 20), list[Result]()
    for name, mib, seconds, use in puts:
        made.append(a_result(mib, seconds))
        results.put(OpKey(str(name)), made[-1])
        if use:
            results.get(OpKey(str(name)))
        results.shrink()
        assert results.nbytes <= 3 << 20
    alive = [results.get(OpKey(str(i))) for i in range(21)]
    for result in made:
        assert result.value.closed == (0 if any(result is r for r in alive) else 1)


def test_what_memory_has_no_room_for_comes_back_from_disk(tmp_path: Path):
    shelf = Shelf(tmp_path / "shelf", 1 << 20)
    results = Results(0, shelf=shelf)
    results.put(OpKey("dear"), Result(Value.of((("something",),)), (1,), 9.0, {"v": [1]}))
    results.put(OpKey("cheap"), Result(Value.of((("else",),)), (1,), 1e-4))
    assert sorted(results.shrink()) == ["cheap", "dear"]
    shelf.settle()
    assert OpKey("dear") in results
    assert OpKey("cheap") not in results
    results.pin(OpKey("dear"))
    found = results.get(OpKey("dear"))
    assert found is not None
    assert found.value.get() == (("something",),)
    assert found.ui == {"v": [1]}
    results.unpin(OpKey("dear"))
    results.shrink()
    assert len(results) == 0
    assert OpKey("dear") in results
    results.close()
    assert not (tmp_path / "shelf").exists()


def test_the_disk_keeps_to_its_budget_and_the_dearest_results(tmp_path: Path):
    shelf = Shelf(tmp_path / "shelf", 6000)
    for name, seconds in (("a", 1.0), ("b", 9.0), ("c", 5.0)):
        shelf.put(OpKey(name), Value.of(((bytes(2500),),)), (1,), seconds, None)
    shelf.settle()
    assert [name for name in "abc" if OpKey(name) in shelf] == ["b", "c"]
    assert shelf.nbytes <= 6000
    assert len(list((tmp_path / "shelf").iterdir())) == 2
    shelf.clear()
    assert not list((tmp_path / "shelf").iterdir())
    shelf.close()


def test_what_cannot_be_packed_is_not_kept_on_disk(tmp_path: Path):
    shelf = Shelf(tmp_path / "shelf", 1 << 20)
    shelf.put(OpKey("a"), Value.of(((lambda: 1,),)), (1,), 9.0, None)
    shelf.settle()
    assert OpKey("a") not in shelf
    shelf.close()


def test_short_memory_throws_out_as_much_as_is_missing():
    free = [10 << 20]
    results = Results(1 << 40, Cache("ram", headroom=8 << 20), free=lambda: free[0])
    for name, seconds in (("cheap", 0.01), ("dear", 9.0), ("middling", 1.0)):
        results.put(OpKey(name), a_result(seconds=seconds))
    assert results.shrink() == []
    free[0] = (7 << 20) + 1000
    assert results.shrink() == ["cheap"]


@pytest.mark.parametrize("kind", ["none", "lru", "classic"])
def test_no_policy_throws_out_what_is_pinned(kind: Literal["none", "lru", "classic"]):
    results = Results(1 << 40, Cache(kind, entries=1))
    for name in "abc":
        results.put(OpKey(name), a_result())
        results.pin(OpKey(name))
    assert results.shrink() == []
    results.unpin(OpKey("a"))
    assert results.shrink() == ["a"]


def test_of_what_is_made_anew_in_no_time_only_the_latest_stays_however_large_the_budget():
    results = Results(4 << 30)
    results.put(OpKey("dear"), a_result(mib=12, seconds=1.0))
    for i in range(40):
        results.put(OpKey(f"cheap {i}"), a_result(mib=12, seconds=0.04))
    results.pin(OpKey("cheap 0"))
    gone = results.shrink()
    assert results.nbytes < (12 + 64 + 1) << 20
    assert OpKey("cheap 39") in results
    assert OpKey("cheap 1") in gone
    assert OpKey("cheap 0") in results  # someone is about to read it
    assert OpKey("dear") in results
    assert results.shrink() == []


def test_small_results_of_a_moments_work_are_not_collected_without_end_either():
    results = Results(4 << 30)
    for i in range(2000):
        results.put(OpKey(f"quick {i}"), a_result(mib=0.05, seconds=0.004))
    results.shrink()
    assert results.nbytes <= 64 << 20
