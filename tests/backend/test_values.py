import os
from dataclasses import field

import mypy.api
import pytest

from backend.values import frozen


@frozen
class Note:
    text: str
    words: tuple[str, ...] = field(default_factory=tuple)


@frozen(eq=False)
class Place:
    name: str


def test_equal_values_are_equal_and_have_one_hash():
    assert Note("a") == Note("a") != Note("b")
    assert {Note("a"), Note("a")} == {Note("a")}


def test_values_without_equality_equal_only_themselves():
    here = Place("here")
    assert here == here
    assert here != Place("here")
    assert len({here, Place("here")}) == 2


def test_a_value_has_no_fields_but_its_own():
    with pytest.raises(AttributeError):
        Note("a").other = 1


def test_the_type_checker_refuses_to_set_a_field_again():
    code = """
from backend.values import frozen
@frozen
class Note:
    text: str
Note("a").text = "b"
"""
    told, _, status = mypy.api.run(
        ["--strict", "--config-file", os.devnull, "--cache-dir", os.devnull, "-c", code]
    )
    assert status == 1
    assert 'Property "text" defined in "Note" is read-only' in told
