"""Calls of value nodes, and what is reported of their end."""

from typing import Annotated

import pytest
import torch

from backend.node import HiddenInput, Int, NodeSpec, OutputSpec, Result, node
from backend.ops import Call
from backend.references import Ref
from backend.registry import Registry
from backend.settings import Settings
from backend.types import Image, NodeId, OpKey
from backend.worker.exchange import Value
from backend.worker.messages import Failed, Finished
from backend.worker.node_calls import NodeCalls
from backend.worker.turn import Turn


@node("Double", category="test")
def double(*, value: Annotated[int, Int()] = 0, plus: int = 0) -> int:
    return 2 * value + plus


@node("Two", category="test")
def two(*, value: int = 0) -> tuple[int, str]:
    return value, str(value)


@node("Show", category="test", output_node=True)
def show(*, value: int = 0, settings: Settings, id: Annotated[str, HiddenInput("UNIQUE_ID")]) -> Result:
    return Result(ui={"text": [f"{id}:{value}:{settings.port}"]})


@node("Fail", category="test")
def fail(*, image: Image, value: int = 0) -> int:
    raise KeyError(f"no {value}")


@node("Quit", category="test")
def quit(*, value: int = 0) -> int:
    raise SystemExit(3)


@node("Wrong", category="test")
def wrong(*, value: int = 0) -> tuple[int, int]:
    return (1, 2, 3)


LISTS = NodeSpec(
    name="Lists",
    function=lambda value, plus: Result(([v + p for v, p in zip(value, plus * len(value), strict=False)],)),
    kind="value",
    category="test",
    inputs=(),
    outputs=(OutputSpec("INT", "INT", is_list=True),),
    input_is_list=True,
)

REGISTRY = Registry((double, two, show, fail, quit, wrong, LISTS))


def answer(node, inputs, values=None, hidden=None):
    """The report of a call that never has to wait."""
    inputs = {name: tuple(items) for name, items in inputs.items()}
    call = Call(node, inputs, NodeId("9"), hidden=hidden or {})
    calls = NodeCalls(REGISTRY, {Settings: Settings(port=7)})
    with pytest.raises(StopIteration) as end:
        calls.answer(OpKey("k"), call, values or {}, Turn(None), lambda turn, report: None).send(None)
    return end.value.value


def outputs(report):
    assert isinstance(report, Finished), report
    assert report.lengths == tuple(map(len, report.value.get()))
    return report.value.get()


def test_a_node_is_called_once_per_item_of_its_longest_input():
    assert outputs(answer("Double", {"value": [1, 2, 3], "plus": [10, 20]})) == ((12, 24, 26),)
    assert outputs(answer("Double", {})) == ((0,),)
    assert outputs(answer("Two", {"value": [1, 2]})) == ((1, 2), ("1", "2"))


def test_refs_are_replaced_by_the_items_they_name():
    earlier = Value.of(((1,), (7, 8)))
    inputs = {"value": [Ref(OpKey("e"), 1, 0), Ref(OpKey("e"), 1, 1)], "plus": [Ref(OpKey("e"))]}
    assert outputs(answer("Double", inputs, {OpKey("e"): earlier})) == ((15, 17),)


def test_a_node_that_takes_lists_is_called_once_and_its_list_output_fans_out():
    assert outputs(answer("Lists", {"value": [1, 2, 3], "plus": [10]})) == ((11, 12, 13),)


def test_an_empty_list_is_an_error_beside_filled_ones_and_left_out_alone():
    failure = answer("Double", {"value": [], "plus": [1]})
    assert (failure.type, failure.message) == (
        "IndexError",
        "Input 'value' is an empty list, while others have up to 1 items.",
    )
    assert outputs(answer("Double", {"value": []})) == ((0,),)


def test_services_and_hidden_inputs_are_filled_and_uis_joined():
    report = answer("Show", {"value": [4, 5]}, hidden={"id": "n1"})
    assert outputs(report) == ()
    assert report.ui == {"text": ["n1:4:7", "n1:5:7"]}


def test_a_failure_tells_its_inputs_and_only_the_nodes_own_frames():
    failure = answer("Fail", {"image": [torch.zeros(1, 2, 2, 3)], "value": [5]})
    assert (failure.type, failure.message) == ("KeyError", "'no 5'")
    assert failure.inputs == {"image": ("Tensor(torch.float32, [1, 2, 2, 3])",), "value": (5,)}
    assert len(failure.traceback) == 1
    assert "test_node_calls.py" in failure.traceback[0]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Quit", "3"),
        ("Wrong", "Wrong has 2 outputs and returned 3 values."),
        ("None", "'None' is not registered"),
    ],
)
def test_whatever_a_node_does_there_is_an_answer(name, says):
    failure = answer(name, {"value": [1]})
    assert isinstance(failure, Failed)
    assert says in failure.message
