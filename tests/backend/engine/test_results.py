from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from backend.engine.results import Result, Results
from backend.types import OpKey


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
