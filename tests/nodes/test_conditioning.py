from pathlib import Path

import pytest
import torch

from backend.settings import Settings
from backend.storage import Storage
from backend.types import Cond
from nodes.conditioning import embeddings_in
from tests.nodes.build import run


def cond(length: int = 77, fill: float = 1.0, **options: object) -> Cond:
    return Cond(torch.full((1, length, 4), fill), torch.full((1, 3), fill), options)


def test_combining_keeps_both_apart():
    a, b = cond(fill=1), cond(fill=2)
    assert run("ConditioningCombine", conditioning_1=(a,), conditioning_2=(b,)) == (a, b)


def test_concatenating_appends_the_first_of_the_other():
    (joined,) = run(
        "ConditioningConcat", conditioning_to=(cond(77, 1),), conditioning_from=(cond(154, 2), cond(77, 3))
    )
    assert joined.tokens.shape == (1, 231, 4)
    assert joined.tokens[0, 80, 0] == 2
    assert joined.pooled[0, 0] == 1


@pytest.mark.parametrize(("to", "other", "tail"), [(77, 154, 0.25 + 1.5), (154, 77, 0.25)])
def test_averaging_cuts_or_fills_the_other_to_length(to, other, tail):
    inputs = {"conditioning_to": (cond(to, 1.0),), "conditioning_from": (cond(other, 2.0),)}
    (mixed,) = run("ConditioningAverage", **inputs, conditioning_to_strength=0.25)
    assert mixed.tokens.shape == (1, to, 4)
    assert mixed.tokens[0, 0, 0] == pytest.approx(0.25 + 1.5)
    assert mixed.tokens[0, -1, 0] == pytest.approx(tail)
    assert mixed.pooled[0, 0] == pytest.approx(0.25 + 1.5)


def test_averaging_with_nothing_says_what_to_connect():
    with pytest.raises(ValueError, match="conditioning_from is empty"):
        run("ConditioningAverage", conditioning_to=(cond(),), conditioning_from=())


def test_zeroing_keeps_shapes_and_options():
    (zero,) = run(
        "ConditioningZeroOut", conditioning=(cond(strength=0.5, conditioning_lyrics=torch.ones(2)),)
    )
    assert not zero.tokens.any()
    assert not zero.pooled.any()
    assert not zero.options["conditioning_lyrics"].any()
    assert zero.options["strength"] == 0.5


def test_areas_masks_and_ranges_are_options_of_a_copy():
    given = (cond(kept=1),)
    (area,) = run("ConditioningSetArea", conditioning=given, width=128, height=64, x=16, y=8, strength=0.5)
    assert area.options == {"kept": 1, "area": (8, 16, 1, 2), "strength": 0.5, "set_area_to_bounds": False}
    (part,) = run("ConditioningSetAreaPercentage", conditioning=given, width=0.5, height=1.0, x=0.25, y=0.0)
    assert part.options["area"] == ("percentage", 1.0, 0.5, 0.0, 0.25)
    (masked,) = run(
        "ConditioningSetMask", conditioning=given, mask=torch.ones(4, 4), set_cond_area="mask bounds"
    )
    assert masked.options["mask"].shape == (1, 4, 4)
    assert masked.options["set_area_to_bounds"] is True
    assert masked.options["mask_strength"] == 1.0
    (ranged,) = run("ConditioningSetTimestepRange", conditioning=given, start=0.25, end=0.5)
    assert (ranged.options["start_percent"], ranged.options["end_percent"]) == (0.25, 0.5)
    (strong,) = run("ConditioningSetAreaStrength", conditioning=given, strength=2.0)
    assert strong.options["strength"] == 2.0
    assert given[0].options == {"kept": 1}


def test_an_exchanged_embedding_makes_another_encoding(tmp_path):
    storage = Storage(Settings(base_directory=tmp_path))
    file = tmp_path / "models" / "embeddings" / "style.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"one")
    before = embeddings_in("a (embedding:style:1.2), b", storage)
    assert [Path(found.path).name for found in before] == ["style.safetensors"]
    file.write_bytes(b"other")
    assert embeddings_in("a (embedding:style:1.2), b", storage) != before
    assert embeddings_in("embedding:absent, plain", storage) == ()
