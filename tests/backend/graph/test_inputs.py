"""Inputs held against their classes: values, types of links, choices, and the classes' own validators."""

from typing import Annotated, Any

import pytest

from backend.errors import GraphError, Refused
from backend.node import Boolean, Choice, Float, Int, OutputSpec, Result, String, node
from backend.settings import Settings
from backend.types import AnyValue, Image, Wire
from tests.backend.graph import probes
from tests.backend.graph.probes import IMAGE, check, refusal, sole_error, wire
from tests.build import a_node


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
