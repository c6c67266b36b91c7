"""Validation: the recorded replies of ComfyUI, and the rules they leave open."""

import json
import os
import time
from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import GraphError, Refused
from backend.graph.parse import Link, parse_prompt
from backend.graph.validate import Validated, validate
from backend.node import Boolean, Choice, Float, Int, OutputSpec, Result, String, node
from backend.settings import Settings
from backend.types import AnyValue, Image, Wire
from tests.backend.graph import probes
from tests.build import a_node

SHARED = Path(os.environ.get("TESSERA_SHARED", Path(__file__).parents[4] / "shared"))
RECORDED = SHARED / "contract" / "recorded" / "prompt_validation.json"
# ComfyUI says nothing of a cycle; we name it. Its texts of faults are Python's; ours begin with them.
CASES = json.loads(RECORDED.read_text())["cases"] if RECORDED.exists() else []
BAD_IMAGE = a_node("EmptyImage", width=0, height=8, batch_size=1, color=0)
IMAGE = a_node("EmptyImage", width=8, height=8, batch_size=1, color=0)


def check(prompt: object, *more: Any, targets: list[str] | None = None, services: Any = None) -> Validated:
    return validate(parse_prompt(prompt), probes.a_registry(*more), services or {}, targets)


def refusal(prompt: object, *more: Any, **options: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        check(prompt, *more, **options)
    return caught.value


def sole_error(prompt: object, *more: Any, node: str = "1") -> GraphError:
    """The only error of the only wrong node."""
    errors = refusal(prompt, *more).node_errors
    assert list(errors) == [node]
    (error,) = errors[node].errors
    return error


def wire(error: GraphError) -> dict[str, object]:
    return {"type": error.code, "message": error.message, "details": error.details, "extra_info": error.extra}


def assert_says(ours: dict[str, Any], recorded: dict[str, Any]) -> None:
    """Equal, but for texts that may go on after the recorded words, and tracebacks."""
    assert (ours["type"], ours["message"]) == (recorded["type"], recorded["message"])
    assert ours["details"].startswith(recorded["details"])
    assert ours["extra_info"].keys() == recorded["extra_info"].keys()
    for key, value in recorded["extra_info"].items():
        if key == "exception_message":
            assert ours["extra_info"][key].startswith(value)
        elif key == "traceback":
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
    assert refused.details.startswith("Node ID '#1'. Did you mean PreviewImage")


def test_an_unknown_class_is_refused_even_where_no_output_needs_it():
    assert (
        refusal({"1": IMAGE, "2": a_node("PreviewImage", images=["1", 0]), "3": a_node("Nope")}).node == "3"
    )


def test_values_are_coerced_and_written_back():
    @node("Values", category="t", output_node=True)
    def values(
        *,
        i: Annotated[int, Int(0, 99)],
        f: Annotated[float, Float(0, 99)],
        s: Annotated[str, String()],
        b: Annotated[bool, Boolean()],
    ) -> Result:
        raise NotImplementedError

    answer = check({"1": a_node("Values", i="16", f="1.5", s=5, b="false")}, values)
    assert answer.prompt.nodes["1"].inputs == {"i": 16, "f": 1.5, "s": "5", "b": True}
    answer = check({"1": a_node("Values", i=16.9, f=True, s=None, b=0)}, values)
    assert answer.prompt.nodes["1"].inputs == {"i": 16, "f": 1.0, "s": "None", "b": False}


def test_nodes_that_no_output_needs_are_left_as_they_came():
    prompt = {"1": IMAGE, "2": a_node("PreviewImage", images=["1", 0]), "3": BAD_IMAGE}
    answer = check(prompt)
    assert (answer.outputs, answer.errors) == (("2",), {})
    assert answer.prompt == parse_prompt(prompt)


@pytest.mark.parametrize("value", ["nan", "inf", "-1e999"])
def test_a_float_must_be_finite(value):
    @node("F", category="t", output_node=True)
    def f(*, f: Annotated[float, Float()]) -> Result:
        raise NotImplementedError

    error = sole_error({"1": a_node("F", f=value)}, f)
    assert (error.code, error.extra["received_value"]) == ("invalid_input_type", value)


@pytest.mark.parametrize("value", [None, [1], {"a": 1}, "1.5", 10**400])
def test_what_is_no_whole_number_is_refused(value):
    wrapped = {"__value__": value}
    prompt = {"1": {**IMAGE, "inputs": {**IMAGE["inputs"], "width": wrapped}}}
    prompt["2"] = a_node("PreviewImage", images=["1", 0])
    assert sole_error(prompt).code in ("invalid_input_type", "value_bigger_than_max")


def test_a_literal_is_no_image():
    error = sole_error({"1": a_node("PreviewImage", images=5)})
    assert error.code == "invalid_input_type"
    assert "connect the output of a node" in error.details


@pytest.mark.parametrize("link", [["1", "0"], [1, 0], ["1", 0.5], ["1", True], ["1", 0, 0], []])
def test_a_list_that_is_no_link_is_refused(link):
    error = sole_error({"1": IMAGE, "2": a_node("PreviewImage", images=link)}, node="2")
    assert (error.code, error.extra["received_value"]) == ("bad_linked_input", link)


def test_a_negative_slot_is_out_of_range():
    error = sole_error({"1": IMAGE, "2": a_node("PreviewImage", images=["1", -1])}, node="2")
    assert (error.code, error.extra["exception_type"]) == ("exception_during_validation", "IndexError")


def test_every_error_of_a_node_is_told_at_once():
    bad = a_node("EmptyImage", width=0, height="x", color=99)
    errors = refusal({"1": bad, "2": a_node("PreviewImage", images=["1", 0])}).node_errors["1"].errors
    assert [(e.code, e.extra["input_name"]) for e in errors] == [
        ("value_smaller_than_min", "width"),
        ("invalid_input_type", "height"),
        ("required_input_missing", "batch_size"),
    ]


# -- types of links ------------------------------------------------------------------------------

SHORT, OTHER = ("a", "b"), ("a", "c")


def accepts(wants: Any, gives: str | tuple[str, ...]) -> bool:
    @node("Source", category="t")
    def source() -> Image:
        raise NotImplementedError

    def takes(*, value: Any) -> Result:
        raise NotImplementedError

    takes.__annotations__["value"] = wants
    sink = node("Sink", category="t", output_node=True)(takes)
    source = probes.replace(source, outputs=(OutputSpec(gives, "out"),))
    try:
        check({"1": a_node("Source"), "2": a_node("Sink", value=["1", 0])}, source, sink)
    except Refused as refused:
        (error,) = refused.node_errors["2"].errors
        assert error.code == "return_type_mismatch"
        return False
    return True


@pytest.mark.parametrize(
    ("wants", "gives", "fits"),
    [
        (Image, "IMAGE", True),
        (Image, "MASK", False),
        (Image, "*", True),
        (AnyValue, "IMAGE", True),
        (AnyValue, SHORT, True),
        (Annotated[object, Wire("IMAGE,MASK")], "MASK", True),
        (Annotated[object, Wire("IMAGE, MASK")], "LATENT,MASK", True),
        (Annotated[object, Wire("IMAGE,MASK")], "LATENT", False),
        (str, SHORT, False),
        (Annotated[str, Choice(SHORT)], "STRING", False),
        (Annotated[str, Choice(SHORT)], SHORT, True),
        (Annotated[str, Choice(SHORT)], OTHER, False),
        (Annotated[str, Choice(SHORT)], "COMBO", False),
        (Annotated[str, Choice(SHORT, "COMBO")], OTHER, True),
        (Annotated[str, Choice(SHORT, "COMBO")], "COMBO", True),
        (Annotated[str, Choice(SHORT, "COMBO")], "STRING", False),
    ],
)
def test_a_link_needs_a_type_in_common(wants, gives, fits):
    assert accepts(wants, gives) is fits


# -- combos --------------------------------------------------------------------------------------


def combo_error(value: object, among: list[str], **options: object) -> GraphError | None:
    @node("C", category="t", output_node=True)
    def c(*, c: Annotated[str, Choice(among, "COMBO", **options)]) -> Result:
        raise NotImplementedError

    try:
        check({"1": a_node("C", c=value)}, c)
    except Refused as refused:
        return refused.node_errors["1"].errors[0]
    return None


def test_a_combo_of_the_newer_style_is_checked_too_and_shows_its_options():
    assert combo_error("a", ["a", "b"]) is None
    error = combo_error("z", ["a", "b"])
    assert error is not None
    assert error.extra["input_config"] == ["COMBO", {"options": ["a", "b"]}]


def test_twenty_options_are_listed_and_more_are_counted():
    twenty = [str(n) for n in range(20)]
    listed, counted = combo_error("z", twenty), combo_error("z", [*twenty, "20"])
    assert listed is not None
    assert str(twenty) in listed.details
    assert counted is not None
    assert counted.details == "c: 'z' not in (list of length 21)"
    assert counted.extra["input_config"] is None


def test_a_combo_of_several_checks_each():
    assert combo_error({"__value__": ["a", "b"]}, ["a", "b"], multiselect=True) is None
    assert combo_error({"__value__": ["a", "z"]}, ["a", "b"], multiselect=True) is not None


def test_options_that_the_front_end_fetches_are_not_known_here():
    assert combo_error("any.png", [], remote={"route": "/internal/files/output"}) is None


# -- a class's own validator ---------------------------------------------------------------------


def validated_with(validator: Any, *names: str, **inputs: object) -> Any:
    """What the validator's node is told, as wire errors; None where it is fine."""

    @node("V", category="t", output_node=True)
    def v(
        *, n: Annotated[int, Int(0, 3)] = 1, c: Annotated[str, Choice(["a"])], o: int | None = None
    ) -> Result:
        raise NotImplementedError

    spec = probes.with_validator(v, validator, *names)
    try:
        check({"1": a_node("V", **inputs), "2": a_node("PrimitiveInt", value=1)}, spec)
    except Refused as refused:
        return [wire(error) for error in refused.node_errors["1"].errors]
    return None


def test_an_own_validator_takes_over_range_and_options_of_its_inputs():
    assert validated_with(lambda n, c: True, "n", "c", n=99, c="z") is None
    assert [e["type"] for e in validated_with(lambda n: True, "n", n=99, c="z")] == ["value_not_in_list"]


def test_a_refusal_counts_once_per_handled_input():
    told = validated_with(lambda n, c: "no", "n", "c", n=1, c="a")
    assert [(e["type"], e["details"]) for e in told] == [
        ("custom_validation_failed", "n - no"),
        ("custom_validation_failed", "c - no"),
    ]
    assert [e["details"] for e in validated_with(lambda n: False, "n", n=1, c="a")] == ["n"]


def test_a_linked_value_is_none_to_the_validator_and_coerced_values_are_seen():
    seen: list[tuple[object, object]] = []
    validated_with(lambda n, c: seen.append((n, c)) or True, "n", "c", n=["2", 0], c="a")
    validated_with(lambda n, c: seen.append((n, c)) or True, "n", "c", n="2", c="a")
    assert seen == [(None, "a"), (2, "a")]


def test_a_validator_is_not_asked_about_inputs_that_are_wrong_already():
    told = validated_with(lambda n, c: 1 / 0, "n", "c", n="x", c="a")
    assert [e["type"] for e in told] == ["invalid_input_type"]


def test_taking_input_types_turns_the_type_check_off():
    seen: list[object] = []

    def validator(input_types: object) -> bool:
        seen.append(input_types)
        return True

    assert validated_with(validator, "input_types", n=1, c=["2", 0]) is None
    assert seen == [{"c": "INT"}]


def test_a_validator_gets_the_services_of_its_class():
    settings = Settings(port=1234)

    @node("S", category="t", output_node=True, validate=lambda n, told: told.port == n, validates=("n",))
    def s(*, n: int, told: Settings) -> Result:
        raise NotImplementedError

    assert check({"1": a_node("S", n=1234)}, s, services={Settings: settings}).outputs == ("1",)
    refused = refusal({"1": a_node("S", n=1)}, s, services={Settings: settings})
    assert refused.node_errors["1"].errors[0].code == "custom_validation_failed"


def test_a_validator_that_raises_below_an_output_names_the_link_that_leads_there():
    def explode(value: int) -> bool:
        raise KeyError("gone")

    bomb = probes.with_validator(probes.primitive_int, explode, "value")
    prompt = {"1": a_node("PrimitiveInt", value=1), "2": a_node("ProbeEcho", a=["1", 0])}
    error = sole_error(prompt, bomb)
    assert error.code == "exception_during_inner_validation"
    assert error.extra["linked_node"] == ["1", 0]
    assert (error.extra["input_name"], error.extra["exception_type"]) == ("a", "KeyError")
    assert "explode" in "".join(error.extra["traceback"])  # type: ignore[arg-type]


# -- which outputs run ---------------------------------------------------------------------------


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


# -- cycles --------------------------------------------------------------------------------------


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


# -- laws ------------------------------------------------------------------------------------------

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
