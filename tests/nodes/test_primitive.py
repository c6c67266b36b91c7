import pytest
import torch

from backend.types import Cond, Latent
from tests.nodes.build import run


@pytest.mark.parametrize(
    ("name", "value"),
    [("PrimitiveInt", 3), ("PrimitiveFloat", 0.5), ("PrimitiveString", "a"), ("PrimitiveBoolean", True),
     ("PrimitiveStringMultiline", "a\nb")],
)  # fmt: skip
def test_a_primitive_is_its_value(name, value):
    assert run(name, value=value) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [("a text", "a text"), (1.5, "1.5"), (True, "True"), (None, "None"), ([1, "x"], '[1, "x"]'),
     (torch.tensor([1.0]), "tensor([1.])"),
     (Latent(torch.zeros(1), batch_index=(3,)), "{'samples': tensor([0.]), 'batch_index': [3]}"),
     ((Cond(torch.ones(1), torch.zeros(1), {"strength": 2.0}),),
      "[[tensor([1.]), {'pooled_output': tensor([0.]), 'strength': 2.0}]]")],
)  # fmt: skip
def test_anything_is_shown_as_text(value, text):
    assert run("PreviewAny", source=value).ui == {"text": [text]}


def test_texts_are_joined_by_the_delimiter():
    assert run("StringConcatenate", string_a="a", string_b="b", delimiter=", ") == "a, b"
    assert run("StringConcatenate", string_a="a", string_b="b") == "ab"
