from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.graph.keys import Unkeyable, content_key, value_key
from backend.ops import Call
from backend.types import ClientId, NodeId

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def shape(value: object) -> object:
    """Equality that tells 1 from True and 1.0, as the keys do."""
    if isinstance(value, list):
        return ("list", [shape(v) for v in value])
    if isinstance(value, dict):
        return ("dict", sorted((k, shape(v)) for k, v in value.items()))
    return (type(value).__name__, repr(value))


@given(json_values, json_values)
def test_keys_are_equal_exactly_where_values_are(a, b):
    assert (value_key(a) == value_key(b)) == (repr(shape(a)) == repr(shape(b)))


def test_neighbouring_texts_are_not_run_together():
    assert value_key("ab", "c") != value_key("a", "bc")
    assert value_key(["a"], "b") != value_key(["a", "b"])


def test_not_a_number_has_no_key():
    with pytest.raises(Unkeyable):
        value_key(float("nan"))


def test_an_arbitrary_object_has_no_key():
    with pytest.raises(Unkeyable, match="object"):
        value_key(object())


def test_a_type_is_part_of_a_dataclass_key():
    @dataclass(frozen=True)
    class Left:
        x: int

    @dataclass(frozen=True)
    class Right:
        x: int

    assert value_key(Left(1)) != value_key(Right(1))


def test_hidden_values_and_ids_are_no_part_of_a_call():
    one = Call("Save", {"x": (1,)}, NodeId("1"), ClientId("a"), {"prompt": {"1": {}}})
    other = Call("Save", {"x": (1,)}, NodeId("2"), ClientId("b"), {"prompt": {"2": {}}})
    salted = Call("Save", {"x": (1,)}, NodeId("1"), salt=("b",))
    assert content_key(one) == content_key(other) != content_key(salted)
