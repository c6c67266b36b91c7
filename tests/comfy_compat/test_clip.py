"""CLIP handles: tokens in ComfyUI's shape."""

import pytest

from backend.components import Weights
from backend.errors import UnsupportedOption
from backend.references import Clip
from comfy_compat.clip import CLIP, SDXLClipModel, plain

L, G = (Weights("text_encoder", part, (), part) for part in ("clip_l", "clip_g"))


@pytest.fixture
def sd15(comfy):
    return CLIP.of(Clip((L,)), comfy.storage)


def test_chunks_have_marks_weights_and_word_numbers(sd15):
    ((chunk,),) = sd15.tokenize("a (big:1.5) cat", return_word_ids=True).values()
    assert len(chunk) == 77
    assert chunk[:6] == [
        (49406, 1.0, 0),
        (320, 1.0, 1),
        (1205, 1.5, 2),
        (2368, 1.0, 3),
        (49407, 1.0, 0),
        (49407, 1.0, 0),
    ]


def test_encoders_have_comfyuis_names_and_their_own_padding(comfy):
    tokens = CLIP.of(Clip((L, G), "sdxl"), comfy.storage).tokenize("cat")
    assert list(tokens) == ["g", "l"]
    assert (tokens["g"][0][3], tokens["l"][0][3]) == ((0, 1.0), (49407, 1.0))


def test_kinds_can_be_asked_for_and_layers_set(comfy):
    clip = CLIP.of(Clip((L, G), "sdxl"), comfy.storage)
    assert isinstance(clip.cond_stage_model, SDXLClipModel)
    other = clip.clone()
    other.clip_layer(-2)
    assert (clip.reference.stop_at, other.reference.stop_at) == (None, -2)


def test_untouched_tokens_are_encoded_as_the_text_they_come_from(sd15):
    tokens = sd15.tokenize("a cat")
    assert (sd15._op(tokens).text, sd15._op(tokens).tokens) == ("a cat", {})
    tokens["l"][0][1] = (320, 0.5)
    assert (sd15._op(tokens).text, sd15._op(tokens).tokens["clip_l"][0][1]) == ("", (320, 0.5))


def test_encoders_without_clips_tokens_encode_whole_texts(comfy):
    clip = CLIP.of(Clip((Weights("text_encoder", "t5", (), "t5xxl"),), "flux"), comfy.storage)
    tokens = clip.tokenize("a cat")
    assert clip._op(tokens).text == "a cat"
    with pytest.raises(UnsupportedOption, match="as tokenize"):
        clip._op({"t5xxl": [[("a cat", 0.5)]]})


def test_words_numbers_are_no_part_of_what_is_encoded():
    assert plain([[(1, 1.0, 5), (2, 0.5, 0)]]) == (((1, 1.0), (2, 0.5)),)
