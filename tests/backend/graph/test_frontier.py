from hypothesis import given
from hypothesis import strategies as st

from backend.graph.frontier import LiveGraph, State, wanted
from backend.ops import Call, Op
from backend.references import Ref
from backend.types import JobKey, NodeId, OpKey


def a_call(*sources: str) -> Call:
    return Call("Add", {"x": tuple(Ref(OpKey(s)) for s in sources)}, NodeId("n"))


def ops(**sources: str) -> dict[OpKey, Op[object]]:
    """ops(a="", b="a", c="ab"): b reads a, c reads a and b."""
    return {OpKey(key): a_call(*reads) for key, reads in sources.items()}


def none(key: OpKey) -> bool:
    return False


def test_an_op_is_ready_once_all_that_it_reads_is_there():
    graph = LiveGraph()
    _, ready = graph.add(JobKey(1), ops(a="", b="", c="ab"), none)
    assert [live.key for live in ready] == ["a", "b"]
    assert graph.finish(OpKey("a")) == []
    assert [live.key for live in graph.finish(OpKey("b"))] == ["c"]


def test_equal_ops_of_two_jobs_are_one():
    graph = LiveGraph()
    graph.add(JobKey(1), ops(a="", b="a"), none)
    new, ready = graph.add(JobKey(2), ops(a="", c="a"), none)
    assert ([live.key for live in new], ready) == (["c"], [])
    assert graph[OpKey("a")].jobs == {1, 2}


def test_a_dropped_job_takes_along_only_what_no_one_else_wants():
    graph = LiveGraph()
    graph.add(JobKey(1), ops(a="", b="a"), none)
    graph.add(JobKey(2), ops(a="", c="a"), none)
    assert {live.key for live in graph.drop_job(JobKey(1))} == {"b"}
    assert {live.key for live in graph.drop_job(JobKey(2))} == {"a", "c"}
    assert len(graph) == 0


def test_a_job_that_joins_a_running_op_waits_for_it():
    graph = LiveGraph()
    graph.add(JobKey(1), ops(a=""), none)
    graph[OpKey("a")].state = State.RUNNING
    _, ready = graph.add(JobKey(2), ops(a="", b="a"), none)
    assert ready == []
    assert [live.key for live in graph.finish(OpKey("a"))] == ["b"]


def test_finished_results_cut_what_is_wanted():
    all_ops = ops(a="", b="a", c="b", d="")
    assert list(wanted([OpKey("c")], all_ops, none)) == ["a", "b", "c"]
    assert list(wanted([OpKey("c")], all_ops, lambda key: key == "b")) == ["c"]
    assert list(wanted([OpKey("c")], all_ops, lambda key: key == "c")) == []


@st.composite
def graphs(draw: st.DrawFn) -> dict[OpKey, Op[object]]:
    names = [f"o{i}" for i in range(draw(st.integers(1, 12)))]
    made: dict[OpKey, Op[object]] = {}
    for i, name in enumerate(names):
        made[OpKey(name)] = a_call(*draw(st.sets(st.sampled_from(names[:i]))) if i else ())
    return made


@given(graphs(), graphs(), st.randoms())
def test_every_op_runs_once_and_never_before_its_inputs(one, other, random):
    graph, done = LiveGraph(), set[OpKey]()
    _, ready = graph.add(JobKey(1), one, done.__contains__)
    _, more = graph.add(JobKey(2), {k: v for k, v in other.items() if k not in one}, done.__contains__)
    pool = [*ready, *more]
    while pool:
        live = pool.pop(random.randrange(len(pool)))
        assert live.key not in done
        assert done.issuperset(live.inputs)
        done.add(live.key)
        pool.extend(graph.finish(live.key))
    assert done == set(one) | set(other)
    assert len(graph) == 0
