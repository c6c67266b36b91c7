"""Ids are those of the published tokenizers: recorded from ComfyUI's copies of them."""

import pytest

from backend.models.qwen_tokenizer import IMAGE, PAD, TURN, QwenTokenizer
from backend.models.t5_tokenizer import T5Tokenizer


@pytest.fixture(scope="module")
def t5() -> T5Tokenizer:
    return T5Tokenizer()


@pytest.fixture(scope="module")
def qwen() -> QwenTokenizer:
    return QwenTokenizer()


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("", []),
        ("a red fox", [3, 9, 1131, 3, 20400]),
        ("  two  spaces ", [192, 4856]),
        ("hello (world), 5:6!!", [21820, 41, 7276, 201, 305, 10, 948, 1603]),
        (" leading", [1374]),
        ("a\u00a0b \ufb01 \u00bd", [3, 9, 3, 115, 361, 209, 2, 357]),
    ],
)
def test_t5(t5: T5Tokenizer, text: str, ids: list[int]):
    assert t5.ids(text) == ids


def test_qwens_marks_are_one_token_each_wherever_they_stand(qwen: QwenTokenizer):
    assert (PAD, TURN, IMAGE) == (151643, 151644, 151655)
    assert qwen.ids("<|im_start|>user\nhi") == [TURN, 872, 198, 6023]
    assert qwen.ids("<|vision_start|><|image_pad|><|vision_end|>") == [151652, IMAGE, 151653]
    assert qwen.ids("") == []


def test_qwens_words_are_taken_apart_and_put_together_by_their_bytes(qwen: QwenTokenizer):
    decomposed, composed = "e\u0301", "\u00e9"
    assert qwen.ids(decomposed) == qwen.ids(composed)  # NFC
    assert len(qwen.ids("12345")) == 5  # each digit is a token of its own
    assert qwen.ids(" the") != qwen.ids("the")
