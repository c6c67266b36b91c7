from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from backend.models.encoders import qwen, t5
from backend.models.encodings.qwen_image import QWEN_IMAGE, _first
from backend.models.encodings.sd3 import SD3
from backend.models.encodings.wan import WAN
from backend.models.merged import Copies
from backend.models.qwen_network import QwenSizes
from backend.models.qwen_tokenizer import QwenTokenizer
from backend.models.t5_network import T5Sizes
from backend.models.t5_tokenizer import T5Tokenizer
from backend.models.text import encode_text, load_text_encoder
from backend.models.text_encoder import Request, TextEncoder, Working
from tests.backend.models.conftest import CPU, relative, weights_of


def working(part: str, layout, tokenizer) -> Working:
    """A small random encoder."""
    module = layout.build().to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    module.requires_grad_(False)
    copies = Copies(lambda site: pytest.fail("no LoRA is used"), 0)
    return Working(TextEncoder(part, layout, module, tokenizer, (), 0, copies, CPU, torch.float32))


@pytest.fixture(scope="module")
def long() -> Working:
    return working("t5xxl", t5.T5Layout(T5Sizes(32, 32, 4, 64, 2, 32128)), T5Tokenizer())


def request(text: str, **options) -> Request:
    return Request(text, lambda name: None, **options)


def test_t5_fills_short_texts_up_and_weighs_words_against_the_empty_text(long: Working):
    plain = t5.encode(long, request("a red fox"), 77)
    assert plain.shape == (1, 77, 32)
    assert t5.encode(long, request("a red fox", options={"t5xxl_min_length": 10}), 77).shape[1] == 10
    padded = {"t5xxl_min_length": 0, "t5xxl_min_padding": 4}
    # Five words, a mark, and four to fill up.
    assert t5.encode(long, request("a red fox", options=padded), 77).shape[1] == 10
    weighted = t5.encode(long, request("a (red:1.5) fox"), 77)
    empty = t5.encode(long, request(""), 77)
    neutral = t5.encode(long, request("a (red:1.0) fox"), 77)
    changed = (weighted != neutral).any(-1)[0]
    assert 0 < int(changed.sum()) <= 3  # the tokens of the one word
    at = int(changed.nonzero()[0])
    wanted = (neutral[0, at] - empty[0, at]) * 1.5 + empty[0, at]
    assert relative(weighted[0, at], wanted) < 1e-5


def test_wan_has_zeros_behind_a_text_and_nothing_looks_there(long: Working):
    (cond,) = WAN.encode({"t5xxl": long}, request("a red fox"))
    assert cond.tokens.shape == (1, 512, 32)
    assert not cond.tokens[:, 6:].any()  # five words and a mark
    alone = t5.encode(long, request("a red fox", options={"t5xxl_min_length": 0}), 512)
    assert relative(cond.tokens[:, :6], alone) < 1e-5
    (weighted,) = WAN.encode({"t5xxl": long}, request("a (red:1.5) fox"))
    changed = (weighted.tokens != WAN.encode({"t5xxl": long}, request("a (red:1.0) fox"))[0].tokens).any(-1)[
        0
    ]
    at = int(changed.nonzero()[0])
    assert relative(weighted.tokens[0, at], cond.tokens[0, at] * 1.5) < 1e-5  # the empty text is zero there


def test_sd3_without_its_clips_and_without_t5_has_zeros_in_their_place(long: Working):
    (alone,) = SD3.encode({"t5xxl": long}, request("a red fox"))
    assert alone.pooled is not None
    assert not alone.pooled.any()
    assert alone.tokens.shape == (1, 77, 32)
    (nothing,) = SD3.encode({}, request("a red fox"))
    assert nothing.tokens.shape == (1, 77, 4096)
    assert not nothing.tokens.any()


def test_what_sd3_leaves_out_is_no_prompt_at_all(long: Working):
    left_out = frozenset({"clip_l", "clip_g", "t5xxl"})
    (cond,) = SD3.encode({"t5xxl": long}, request("", left_out=left_out))
    assert cond.tokens.shape[1] == 1  # the mark at the end of nothing


def test_qwen_images_frame_is_cut_off_before_the_users_words():
    tokenizer = QwenTokenizer()
    sizes = QwenSizes(32, 2, 1, 16, 48, 2, 152064, biased=True, normed=False)
    encoder = working("qwen25_7b", qwen.QwenLayout(sizes), tokenizer)
    (cond,) = QWEN_IMAGE.encode({"qwen25_7b": encoder}, request("a red fox"))
    behind = len(tokenizer.ids("a red fox<|im_end|>\n<|im_start|>assistant\n"))
    assert cond.tokens.shape == (1, behind, 32)
    own = "<|im_start|>user\na red fox<|im_end|>"
    (framed,) = QWEN_IMAGE.encode({"qwen25_7b": encoder}, request(own))
    assert framed.tokens.shape[1] == len(tokenizer.ids("a red fox<|im_end|>"))
    assert _first([1, 2], 2) == -1


@pytest.mark.parity
def test_sd3s_text_is_comfyuis(reference, model):
    facts = load_file(reference.folder / "facts" / "text_sd3.safetensors")
    text = "a red fox sitting on a mossy rock, autumn forest, soft light"
    encoders = [
        Working(load_text_encoder(weights_of(Path(model(name)), "text_encoder"), CPU, torch.float32))
        for name in ("clip_l", "clip_g")
    ]
    (cond,) = encode_text("sd3", encoders, request(text))
    assert cond.tokens.shape == (1, 77, 4096)
    assert relative(cond.tokens[..., :2048], facts["plain.cond_first_2048_columns"]) < 1e-4
    assert not cond.tokens[..., 2048:].any()
    assert cond.pooled is not None
    assert relative(cond.pooled, facts["plain.pooled"]) < 1e-4
