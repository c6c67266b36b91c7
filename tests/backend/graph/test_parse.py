"""JSON -> Prompt: every form that clients send, and an error for everything else."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import GraphError, InvalidPrompt, NoPrompt
from backend.graph.parse import BadLink, Link, parse_prompt

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)
FINITE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
VALUES = FINITE | st.tuples(st.text(), st.integers()).map(list) | FINITE.map(lambda v: {"__value__": v})
NODES = st.fixed_dictionaries(
    {"class_type": st.text()},
    optional={"inputs": st.dictionaries(st.text(), VALUES, max_size=4), "_meta": FINITE, "note": FINITE},
)


def parsed_input(value: object) -> object:
    return parse_prompt({"1": {"class_type": "X", "inputs": {"a": value}}}).nodes["1"].inputs["a"]


def test_a_pair_of_id_and_slot_is_a_link():
    assert parsed_input(["2", 1]) == Link("2", 1)
    assert parsed_input(["2", 1.0]) == Link("2", 1)


@pytest.mark.parametrize(
    "value", [[], ["2"], ["2", 0, 1], [2, 0], ["2", "0"], ["2", 0.5], ["2", True], ["2", None], [["2"], 0]]
)
def test_any_other_bare_list_is_kept_for_validation_to_report(value):
    assert parsed_input(value) == BadLink(value)


def test_a_wrapped_list_is_a_literal():
    assert parsed_input({"__value__": ["2", 1]}) == ["2", 1]
    assert parsed_input({"__value__": 3}) == 3


def test_the_title_is_the_users_or_else_the_class():
    nodes = {
        "1": {"class_type": "X", "inputs": {}, "_meta": {"title": "My node"}},
        "2": {"class_type": "X", "inputs": {}, "_meta": {"title": 5}},
        "3": {"class_type": "X", "inputs": {}, "_meta": []},
    }
    assert [node.title for node in parse_prompt(nodes).nodes.values()] == ["My node", "X", "X"]


def test_no_prompt_at_all_says_so():
    with pytest.raises(NoPrompt) as caught:
        parse_prompt(None)
    assert (caught.value.code, caught.value.message) == ("no_prompt", "No prompt provided")


@pytest.mark.parametrize(
    ("prompt", "message", "details"),
    [
        ([], "The prompt is not a graph.", "prompt is a list; send an object"),
        ("x", "The prompt is not a graph.", "prompt is a string"),
        ({"7": 5}, "Cannot execute because a node is not an object.", "Node ID '#7': it is a number"),
        (
            {"7": {"inputs": {}}},
            "Cannot execute because a node is missing the class_type property.",
            "Node ID '#7'",
        ),
        ({"7": {"class_type": None}}, "Cannot execute because node None does not exist.", "Node ID '#7'"),
        (
            {"7": {"class_type": "X", "inputs": [1]}},
            "Cannot execute because a node's inputs are not an object.",
            "Node ID '#7': they are a list",
        ),
        ({7: {"class_type": "X"}}, "A node id is not a string.", "Node ID '#7'"),
    ],
)
def test_what_is_no_graph_of_nodes_is_refused_with_the_node_named(prompt, message, details):
    with pytest.raises(InvalidPrompt) as caught:
        parse_prompt(prompt)
    assert caught.value.code == "invalid_prompt"
    assert caught.value.message == message
    assert caught.value.details.startswith(details)
    assert caught.value.node_errors == {}


@pytest.mark.parametrize(
    "text", ["1e999", "[1e999]", '["1", 1e999]', '{"__value__": [[-1e999]]}', '{"a": {"b": NaN}}']
)
def test_numbers_that_are_not_finite_are_refused_wherever_they_hide(text):
    with pytest.raises(InvalidPrompt, match=r"not finite.*Node ID '#1'"):
        parsed_input(json.loads(text))


def test_numbers_that_are_not_finite_are_refused_beside_the_inputs_too():
    with pytest.raises(InvalidPrompt, match="not finite"):
        parse_prompt({"1": {"class_type": "X", "inputs": {}, "_meta": {"n": float("nan")}}})


@given(st.dictionaries(st.text(max_size=4), NODES, max_size=4))
def test_dumping_and_parsing_again_changes_nothing(value):
    prompt = parse_prompt(value)
    dumped = prompt.to_json()
    assert parse_prompt(json.loads(json.dumps(dumped))) == prompt
    assert list(dumped) == list(value)


@given(JSON | st.dictionaries(st.text(max_size=3), JSON | NODES, max_size=3))
def test_whatever_json_comes_in_is_a_prompt_or_a_clear_error(value):
    try:
        parse_prompt(value)
    except GraphError as error:
        assert error.message  # noqa: PT017  # only where it is refused


def test_nesting_deeper_than_the_stack_is_no_trouble():
    value: object = 1.0
    for _ in range(50_000):
        value = {"a": value}
    assert parsed_input({"__value__": value}) is value
