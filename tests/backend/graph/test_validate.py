"""Validation: the recorded replies of ComfyUI, and the rules they leave open."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import Refused
from backend.graph.parse import Link, parse_prompt
from backend.graph.validate import validate
from tests.backend.graph import probes
from tests.backend.graph.probes import BAD_IMAGE, IMAGE, check, refusal, sole_error, wire
from tests.build import a_node

SHARED = Path(os.environ.get("TESSERA_SHARED", Path(__file__).parents[4] / "shared"))
RECORDED = SHARED / "contract" / "recorded" / "prompt_validation.json"
# ComfyUI says nothing of a cycle; we name it.
CASES = json.loads(RECORDED.read_text())["cases"] if RECORDED.exists() else []


def assert_says(ours: dict[str, Any], recorded: dict[str, Any]) -> None:
    """Equal, but for tracebacks, and what we tell where nothing is recorded."""
    assert (ours["type"], ours["message"]) == (recorded["type"], recorded["message"])
    assert ours["details"] == recorded["details"] or not recorded["details"]
    assert ours["extra_info"].keys() == recorded["extra_info"].keys()
    for key, value in recorded["extra_info"].items():
        if key == "traceback":
            assert isinstance(ours["extra_info"][key], list)
        else:
            assert ours["extra_info"][key] == value


def assert_same_nodes(ours: Any, recorded: dict[str, Any]) -> None:
    assert set(ours) == set(recorded)
    for id, told in recorded.items():
        assert ours[id].class_type == told["class_type"]
        assert set(ours[id].dependents) == set(told["dependent_outputs"])
        for error, expected in zip(ours[id].errors, told["errors"], strict=True):
            assert_says(wire(error), expected)


def test_the_recordings_are_at_hand():
    if not CASES:
        pytest.skip(f"{RECORDED} is missing: set TESSERA_SHARED to the folder that holds contract/")
    assert len(CASES) == 24


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_a_recorded_request_gets_the_recorded_answer(case):
    sent, recorded = case["json"], case["response"]
    if case["status"] == 200:
        answer = check(sent["prompt"])
        assert_same_nodes(answer.errors, recorded["node_errors"])
        return
    refused = refusal(sent.get("prompt"), targets=sent.get("partial_execution_targets"))
    assert_says(wire(refused), recorded["error"])
    if case["name"] != "static cycle":
        assert_same_nodes(refused.node_errors, recorded["node_errors"])


def test_an_unknown_class_is_told_with_names_that_are_like_it():
    refused = refusal({"1": a_node("PreviewImgae")})
    assert refused.message.endswith("PreviewImgae does not exist. Did you mean PreviewImage?")
    assert refused.details == "Node ID '#1'"


def test_an_unknown_class_is_refused_even_where_no_output_needs_it():
    assert (
        refusal({"1": IMAGE, "2": a_node("PreviewImage", images=["1", 0]), "3": a_node("Nope")}).node == "3"
    )


def test_nodes_that_no_output_needs_are_left_as_they_came():
    prompt = {"1": IMAGE, "2": a_node("PreviewImage", images=["1", 0]), "3": BAD_IMAGE}
    answer = check(prompt)
    assert (answer.outputs, answer.errors) == (("2",), {})
    assert answer.prompt == parse_prompt(prompt)


def test_only_the_targets_run():
    prompt = {
        "1": IMAGE,
        "2": a_node("PreviewImage", images=["1", 0]),
        "3": a_node("PreviewImage", images=["1", 0]),
        "4": a_node("PreviewImage"),
    }
    assert check(prompt, targets=["3", "nobody"]).outputs == ("3",)
    assert check(prompt).outputs == ("2", "3")
    assert list(check(prompt).errors) == ["4"]
    assert refusal(prompt, targets=[]).code == "prompt_no_outputs"


def test_a_wrong_node_is_told_with_just_the_outputs_that_need_it():
    prompt = {
        "1": BAD_IMAGE,
        "2": IMAGE,
        "3": a_node("ImageInvert", image=["1", 0]),
        "4": a_node("PreviewImage", images=["3", 0]),
        "5": a_node("PreviewImage", images=["2", 0]),
        "6": a_node("ProbeEcho", a=["4", 0], b=["1", 0]),
    }
    answer = check({**prompt, "6": a_node("ProbeEcho", a=["3", 0], b=["2", 0])})
    assert answer.outputs == ("5",)
    assert {id: told.dependents for id, told in answer.errors.items()} == {"1": ("4", "6")}


def test_an_undeclared_literal_is_let_through_and_an_undeclared_link_must_lead_somewhere():
    preview = a_node("PreviewImage", images=["1", 0], note="x", odd=[1, 2, 3])
    assert check({"1": IMAGE, "2": preview}).prompt.nodes["2"].inputs["note"] == "x"
    dangling = a_node("PreviewImage", images=["1", 0], stray=["77", 0])
    assert sole_error({"1": IMAGE, "2": dangling}, node="2").code == "exception_during_validation"
    assert sole_error(
        {"1": IMAGE, "2": a_node("PreviewImage", images=["1", 0], stray=["3", 0]), "3": BAD_IMAGE}, node="3"
    )


@pytest.mark.parametrize(
    ("node", "details", "meaning"),
    [
        (a_node("PreviewImage", images=["77", 0]), "'77'", "'images' is linked to node 77, which is not in"),
        (a_node("PreviewImage", images=["1", 5]), "tuple index out of range", "5 of node 1, but EmptyImage"),
        ({"class_type": "PreviewImage"}, "'inputs'", "send {} where it takes none"),
    ],
)
def test_where_details_are_comfyuis_the_traceback_says_what_they_mean(node, details, meaning):
    told = sole_error({"1": IMAGE, "2": node}, node="2")
    assert told.details == details
    (line,) = told.extra["traceback"]
    assert meaning in line


def test_a_cycle_is_told_to_its_nodes_and_no_others():
    prompt = {
        "1": a_node("PreviewImage", images=["2", 0]),
        "2": a_node("ImageInvert", image=["3", 0]),
        "3": a_node("ImageInvert", image=["4", 0]),
        "4": a_node("ImageInvert", image=["3", 0]),
    }
    refused = refusal(prompt)
    assert set(refused.node_errors) == {"3", "4"}
    assert {e.code for told in refused.node_errors.values() for e in told.errors} == {"dependency_cycle"}
    assert refused.node_errors["3"].errors[0].extra == {"nodes": ["3", "4"]}
    assert refused.node_errors["3"].dependents == ("1",)
    assert "3 <- 4 <- 3" in refused.details


def test_a_node_that_feeds_itself_is_a_cycle():
    refused = refusal({"1": a_node("ProbeEcho", a=["1", 0])})
    assert refused.node_errors["1"].errors[0].extra == {"nodes": ["1"]}


def test_an_output_beside_a_cycle_runs():
    prompt = {
        "1": IMAGE,
        "2": a_node("PreviewImage", images=["1", 0]),
        "3": a_node("PreviewImage", images=["4", 0]),
        "4": a_node("ImageInvert", image=["4", 0]),
    }
    answer = check(prompt)
    assert (answer.outputs, set(answer.errors)) == (("2",), {"4"})


def test_what_lies_behind_a_cycle_knows_all_outputs_that_need_it():
    prompt = {
        "o1": a_node("ProbeEcho", a=["u", 0]),
        "o2": a_node("ProbeEcho", a=["v", 0]),
        "u": a_node("ProbeEcho", a=["v", 0], b=["bad", 0]),
        "v": a_node("ProbeEcho", a=["u", 0]),
        "bad": BAD_IMAGE,
    }
    told = refusal(prompt, targets=["o1", "o2"]).node_errors
    assert told["bad"].dependents == ("o1", "o2")
    assert set(told) == {"u", "v", "bad"}


def a_chain(length: int) -> dict[str, Any]:
    chain = {str(n): a_node("ImageInvert", image=[str(n - 1), 0]) for n in range(1, length)}
    return {"out": a_node("PreviewImage", images=[str(length - 1), 0]), "0": IMAGE, **chain}


def test_a_chain_longer_than_pythons_stack_is_validated_and_its_cycle_found():
    chain = a_chain(5000)
    assert check(chain).outputs == ("out",)
    chain["0"] = a_node("ImageInvert", image=["4999", 0])
    refused = refusal(chain)
    assert len(refused.node_errors) == 5000
    assert len(refused.node_errors["0"].errors[0].details) < 300


def test_time_grows_with_the_number_of_nodes_and_no_faster():
    def seconds(length: int) -> float:
        prompt, registry = parse_prompt(a_chain(length)), probes.a_registry()

        def once() -> float:
            begun = time.process_time()
            validate(prompt, registry, {})
            return time.process_time() - begun

        return min(once() for _ in range(3))

    assert seconds(4000) < 20 * seconds(500) + 0.01  # 8 times the nodes


IDS = st.sampled_from(["1", "2", "3", "4", "5", "absent"])
NAMES = ("images", "image", "a", "b", "v", "combo", "width", "height", "value", "upscale_method", "stray")


GIVEN = (
    st.tuples(IDS, st.integers(-1, 1)).map(list)
    | st.none()
    | st.integers(-5, 5)
    | st.sampled_from(
        ["a", "7", "x", "", 1.5, True, [], ["1"], {}, {"__value__": [1]}, {"k": [None]}, 10**400]
    )
)
CLASSES = st.sampled_from([spec.name for spec in probes.a_registry()])
PROMPTS = st.dictionaries(
    st.sampled_from(["1", "2", "3", "4", "5"]),
    st.fixed_dictionaries(
        {"class_type": CLASSES},
        optional={"inputs": st.dictionaries(st.sampled_from(NAMES), GIVEN, max_size=4)},
    ),
    max_size=5,
)


def reached(prompt: Any, start: str) -> set[str]:
    """Ids that `start` depends on, itself too, where they are in the prompt."""
    found, left = set(), [start]
    while left:
        id = left.pop()
        if id in prompt.nodes and id not in found:
            found.add(id)
            left += [v.node for v in prompt.nodes[id].inputs.values() if isinstance(v, Link)]
    return found


@given(PROMPTS)
def test_whatever_comes_in_is_sorted_into_what_runs_and_what_is_wrong(value):
    prompt = parse_prompt(value)
    outputs = [
        id
        for id, node in prompt.nodes.items()
        if node.class_type in ("PreviewImage", "ProbeEcho", "ProbeValidate")
    ]
    try:
        answer = validate(prompt, probes.a_registry(), {})
        good, errors = answer.outputs, answer.errors
    except Refused as refused:
        good, errors = (), refused.node_errors
        assert (refused.code == "prompt_no_outputs") == (not outputs)  # noqa: PT017  # one of two good ends
    needed = {output: reached(prompt, output) for output in outputs}
    for output in outputs:
        assert (output in good) == needed[output].isdisjoint(errors)
    for id, told in errors.items():
        assert set(told.dependents) == {output for output in outputs if id in needed[output]}
        assert told.errors
        json.dumps([wire(error) for error in told.errors], allow_nan=False)


@given(PROMPTS)
def test_what_was_validated_is_valid_and_stays_as_it_is(value):
    try:
        answer = validate(parse_prompt(value), probes.a_registry(), {})
    except Refused:
        return
    again = validate(parse_prompt(answer.prompt.to_json()), probes.a_registry(), {}, answer.outputs)
    assert (again.prompt, again.outputs, again.errors) == (answer.prompt, answer.outputs, {})
