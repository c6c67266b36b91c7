import json

import pytest
import torch

from backend.models.clip_tokenizer import END, START, ClipTokenizer, clean
from backend.models.prompt import Marks, tokenize
from tests.parity.reference import Reference

TOKENIZER = ClipTokenizer()


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("", []),
        ("a photo of a cat", [320, 1125, 539, 320, 2368]),
        ("  A\tPHOTO\nof a  CAT ", [320, 1125, 539, 320, 2368]),
        ("<|endoftext|>", [END]),
        ("<|startoftext|>a", [START, 320]),
    ],
)
def test_text_becomes_clips_ids(text: str, ids: list[int]):
    assert TOKENIZER.ids(text) == ids


def test_digits_are_single_and_apostrophes_split_words():
    assert TOKENIZER.ids("2024") == [
        *TOKENIZER.ids("2"),
        *TOKENIZER.ids("0"),
        *TOKENIZER.ids("2"),
        *TOKENIZER.ids("4"),
    ]
    assert TOKENIZER.ids("it's") == [*TOKENIZER.ids("it"), *TOKENIZER.ids("'s")]


def test_any_character_has_ids():
    assert all(0 <= number < START for number in TOKENIZER.ids("é ж 日本 🦊 \U0001f9d1"))


def test_cleaning_sets_ideographs_apart_and_drops_control_characters():
    assert clean("a\x00b\u200b \ufffdÉ日本") == "ab é 日 本"
    assert clean("e\u0301") == "é"


def test_every_prompt_of_the_reference_set_has_its_ids_and_weights(reference: Reference):
    prompts = json.loads((reference.folder / "facts" / "prompts.json").read_text())
    assert prompts
    known = {"embedding_sd15": torch.zeros(3, 768)}
    for name, prompt in prompts.items():
        chunks = tokenize(prompt["text"], TOKENIZER.ids, Marks(START, END, pad=END), known.get)
        got = [
            [[t.value if isinstance(t.value, int) else "embedding", t.weight] for t in chunk]
            for chunk in chunks
        ]
        assert got == prompt["tokens"], name
