from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from backend.models.prompt import Marks, empty_chunk, tokenize, weigh

MARKS = Marks(start=-1, end=-2, pad=-3, length=12)  # ten places between the marks


def words(text: str) -> list[int]:
    """A tokenizer of one id per word: its number, or its length."""
    return [int(word) if word.isdigit() else len(word) for word in text.split()]


def no_embedding(_: str) -> None:
    return None


def values(text: str, find: Callable[[str], Tensor | None] = no_embedding) -> list[list[object]]:
    chunks = tokenize(text, words, MARKS, find)
    return [[t.value if isinstance(t.value, int) else "vector" for t in chunk] for chunk in chunks]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("a cat", [("a cat", 1.0)]),
        ("", []),
        ("a (red) cat", [("a ", 1.0), ("red", 1.1), (" cat", 1.0)]),
        ("((red))", [("red", pytest.approx(1.21))]),
        ("(red:1.5)", [("red", 1.5)]),
        ("(a (b:0.5) c:2)", [("a ", 2.0), ("b", 0.5), (" c", 2.0)]),
        ("((b) c:2)", [("b", pytest.approx(2.2)), (" c", 2.0)]),
        ("(10:30 sharp)", [("10:30 sharp", 1.1)]),
        ("(a:1:0.5)", [("a:1", 0.5)]),
        ("(:1.5)", [(":1.5", 1.1)]),
        ("(a:-1)", [("a", -1.0)]),
        ("()", []),
        (r"\(a\) (b\):1.5)", [("(a) ", 1.0), ("b)", 1.5)]),
        ("(a", [("(a", 1.0)]),
        ("a) (b)", [("a) (b)", 1.0)]),
        ("a ((b)", [("a ", 1.0), ("(b", 1.1)]),
        ("[a] {b}", [("[a] {b}", 1.0)]),
    ],
)
def test_weights_are_read_as_comfyui_reads_them(text: str, pieces: list[tuple[str, float]]):
    assert weigh(text) == pieces


def test_a_prompt_may_nest_deeper_than_python_recurses():
    assert weigh("(" * 3000 + "a" + ")" * 3000)[0][0] == "a"


@given(st.text(alphabet="ab(): .1\\", max_size=30))
def test_any_text_has_pieces_and_loses_no_letter(text: str):
    kept = "".join(piece for piece, _ in weigh(text))
    assert [c for c in kept if c in "ab"] == [c for c in text if c in "ab"]


def test_a_chunk_has_its_marks_and_is_padded():
    assert values("1 2 3") == [[-1, 1, 2, 3, -2, *[-3] * 7]]
    assert values("") == [[-1, -2, *[-3] * 10]]
    assert [t.value for t in empty_chunk(MARKS)] == values("")[0]


def test_a_full_chunk_has_no_padding_and_opens_no_other():
    assert values("1 2 3 4 5 6 7 8 9 10") == [[-1, *range(1, 11), -2]]


def test_a_short_group_is_moved_to_the_next_chunk_whole():
    assert values("1 2 3 4 5 6 (7 8 9 10 11)") == [
        [-1, 1, 2, 3, 4, 5, 6, -2, -3, -3, -3, -3],
        [-1, 7, 8, 9, 10, 11, -2, -3, -3, -3, -3, -3],
    ]


def test_a_group_of_eight_is_cut():
    assert values("1 2 3 4 5 6 (7 8 9 10 11 12 13 14)") == [
        [-1, *range(1, 11), -2],
        [-1, 11, 12, 13, 14, -2, *[-3] * 6],
    ]


@given(st.lists(st.integers(1, 30), max_size=12))
def test_every_token_stands_in_some_chunk_in_order_and_every_chunk_is_full_length(lengths: list[int]):
    numbers = iter(range(1, 1000))
    text = " ".join(f"({' '.join(str(next(numbers)) for _ in range(n))}:1.5)" for n in lengths)
    chunks = values(text)
    assert all(len(chunk) == MARKS.length for chunk in chunks)
    assert [v for chunk in chunks for v in chunk if v > 0] == list(range(1, sum(lengths) + 1))


def test_an_embedding_stands_where_its_name_stood_with_the_weight_around_it():
    found = {"frog": torch.zeros(2, 4)}
    (chunk,) = tokenize("1 (embedding:frog:0.5) 2", words, MARKS, found.get)
    assert [t.weight for t in chunk[:5]] == [1.0, 1.0, 0.5, 0.5, 1.0]
    assert values("1 embedding:frog 2", found.get)[0][:5] == [-1, 1, "vector", "vector", 2]


def test_a_comma_behind_a_name_is_text_unless_the_name_has_it():
    assert values("embedding:frog, 7", {"frog": torch.zeros(1, 4)}.get)[0][:4] == [-1, "vector", 1, 7]
    assert values("embedding:frog, 7", {"frog,": torch.zeros(1, 4)}.get)[0][:3] == [-1, "vector", 7]


def test_a_missing_embedding_is_left_out_and_logged(caplog: pytest.LogCaptureFixture):
    assert values("1 embedding:nobody 2 embedding:") == [[-1, 1, 2, -2, *[-3] * 8]]
    assert "embedding:nobody" in caplog.text


def test_a_name_in_the_middle_of_a_word_is_no_embedding():
    assert values("myembedding:frog", {"frog": torch.zeros(1, 4)}.get)[0][1] == len("myembedding:frog")
