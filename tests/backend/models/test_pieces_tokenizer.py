"""The tokenizer that a text encoder's file brings along."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sentencepiece import SentencePieceProcessor
from transformers import UMT5Config, UMT5EncoderModel

from backend.errors import BadFile
from backend.models.text import Request, Working, encode_text, load_text_encoder
from scripts.template_models import pieces
from tests.backend.models.conftest import CPU, relative, weights_of

TEXT = "the quick fox, a lazy dog"


@pytest.fixture(scope="module")
def umt5() -> UMT5EncoderModel:
    config = UMT5Config(
        vocab_size=64, d_model=32, d_kv=8, num_heads=4, d_ff=64, num_layers=2, feed_forward_proj="gated-gelu"
    )
    torch.manual_seed(0)
    module = UMT5EncoderModel(config).eval()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return module


def saved(umt5: UMT5EncoderModel, path: Path, **more: torch.Tensor) -> Path:
    save_file(
        {
            **{n: v.clone() for n, v in umt5.state_dict().items() if n != "encoder.embed_tokens.weight"},
            **more,
        },
        path,
    )
    return path


def test_wans_text_is_what_transformers_umt5_makes_of_the_files_own_pieces(
    umt5: UMT5EncoderModel, tmp_path: Path
):
    model = torch.from_numpy(np.frombuffer(pieces(), np.uint8).copy())
    path = saved(umt5, tmp_path / "umt5.safetensors", spiece_model=model)
    encoder = load_text_encoder(weights_of(path, "text_encoder"), CPU, torch.float32)
    (cond,) = encode_text("wan", [Working(encoder)], Request(TEXT, lambda name: None))
    ids = [*SentencePieceProcessor(model_proto=pieces()).encode(TEXT), 1]
    assert 5 < len(ids) < 64
    mask = torch.tensor([[1] * len(ids) + [0] * (512 - len(ids))])
    filled = torch.tensor([ids + [0] * (512 - len(ids))])
    with torch.no_grad():
        wanted = umt5(input_ids=filled, attention_mask=mask).last_hidden_state * mask[..., None]
    assert relative(cond.tokens, wanted) < 1e-5
    assert cond.pooled is None


def test_a_file_without_pieces_is_refused(umt5: UMT5EncoderModel, tmp_path: Path):
    path = saved(umt5, tmp_path / "bare.safetensors")
    with pytest.raises(BadFile, match=r"no tokenizer is in it.*brings its tokenizer along"):
        load_text_encoder(weights_of(path, "text_encoder"), CPU, torch.float32)
    path = saved(umt5, tmp_path / "damaged.safetensors", spiece_model=torch.zeros(9, dtype=torch.uint8))
    with pytest.raises(BadFile, match="tokenizer is damaged"):
        load_text_encoder(weights_of(path, "text_encoder"), CPU, torch.float32)
