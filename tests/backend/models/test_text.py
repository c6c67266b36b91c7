import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from backend.components import Weights
from backend.errors import UnknownFamily, UnsupportedOption
from backend.models.encoders.clip import ClipLayout
from backend.models.text import Request, TextEncoder, Working, encode_text, load_text_encoder
from backend.models.text_encoder import FindEmbedding
from backend.types import Cond
from tests.backend.models.conftest import CPU, relative, weights_of
from tests.parity.reference import Reference


def no_embedding(name: str) -> None:
    return None


def loaded(path: Path) -> TextEncoder:
    return load_text_encoder(weights_of(path, "text_encoder"), CPU, torch.float32)


def encode(
    encoder: TextEncoder, text: str, stop_at: int | None = None, find: FindEmbedding = no_embedding
) -> Cond:
    (cond,) = encode_text("sd15", [Working(encoder)], Request(text, find, stop_at=stop_at))
    return cond


def encoded(encoder: TextEncoder, text: str, stop_at: int | None = None) -> torch.Tensor:
    return encode(encoder, text, stop_at).tokens


def test_a_prompt_has_one_row_of_whole_chunks_and_a_pooled_vector(tiny: Path):
    encoder = loaded(tiny)
    short = encode(encoder, "a cat")
    long = encode(encoder, "a cat " * 40)
    assert short.tokens.shape == (1, 77, 64)
    assert long.tokens.shape == (1, 154, 64)
    assert short.pooled is not None
    assert short.pooled.shape == (1, 64)


def test_a_weight_moves_a_token_along_the_line_from_the_empty_prompt(tiny: Path):
    encoder = loaded(tiny)
    empty, plain, heavy = (encoded(encoder, text) for text in ("", "cat", "(cat:1.5)"))
    assert torch.allclose(heavy[0, 1], empty[0, 1] + 1.5 * (plain[0, 1] - empty[0, 1]), atol=1e-5)
    assert torch.equal(heavy[0, 2:], plain[0, 2:])


def test_clip_skip_counts_from_the_end_and_stops_at_the_first_layer(tiny: Path):
    encoder = loaded(tiny)
    last = encoded(encoder, "cat")
    assert torch.equal(encoded(encoder, "cat", -1), last)
    assert not torch.allclose(encoded(encoder, "cat", -2), last)
    assert torch.equal(encoded(encoder, "cat", -24), last)


def test_a_damaged_embedding_is_left_out_and_logged(
    tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    path = tmp_path / "wide.safetensors"
    save_file({"emb_params": torch.zeros(1, 5)}, path)
    encoder = loaded(tiny)
    cond = encode(encoder, "cat embedding:wide", find=lambda _: str(path))
    assert torch.equal(cond.tokens, encoded(encoder, "cat"))
    assert "width 64" in caplog.text


def test_a_file_without_a_text_model_is_refused(tmp_path: Path):
    path = tmp_path / "a.safetensors"
    save_file({"weight": torch.zeros(1)}, path)
    with pytest.raises(UnknownFamily, match="no text encoder of a supported kind"):
        loaded(path)


def test_a_kind_of_encoder_that_is_not_served_is_refused_by_name(tmp_path: Path):
    names = ("embeddings.token_embedding", "embeddings.position_embedding", "encoder.layers.0.mlp.fc1")
    path = tmp_path / "clip_h.safetensors"
    save_file({f"text_model.{name}.weight": torch.zeros(2, 1024) for name in names}, path)
    with pytest.raises(UnknownFamily, match="but clip_h"):
        loaded(path)


def test_an_encoding_that_is_not_served_or_lacks_an_encoder_is_refused(tiny: Path):
    encoder = Working(loaded(tiny))
    with pytest.raises(UnsupportedOption, match="type='cascade' is not supported"):
        encode_text("cascade", [encoder], Request("a cat", no_embedding))
    with pytest.raises(UnsupportedOption, match="Load clip_g beside clip_l"):
        encode_text("sdxl", [encoder], Request("a cat", no_embedding))


@pytest.mark.parity
def test_every_text_fact_is_met(reference: Reference, model: Callable[[str], Path]):
    prompts = json.loads((reference.folder / "facts" / "prompts.json").read_text())
    facts = load_file(reference.folder / "facts" / "text_sd15.safetensors")
    path, embedding = model("sd15"), model("embedding_sd15")
    encoder = loaded(path)
    names = [name.removesuffix(".cond") for name in facts if name.endswith(".cond")]
    assert len(names) > 10
    for name in names:
        prompt, _, skip = name.partition(".skip")
        known = {"embedding_sd15": str(embedding)}
        cond = encode(encoder, prompts[prompt]["text"], int(skip) if skip else None, known.get)
        assert relative(cond.tokens, facts[f"{name}.cond"]) < 1e-5, name
        assert relative(cond.pooled, facts[f"{name}.pooled"]) < 1e-5, name


@pytest.mark.parity
def test_a_text_encoder_of_its_own_loads_like_one_in_a_checkpoint(model: Callable[[str], Path]):
    encoder = loaded(model("clip_l"))
    assert isinstance(encoder.layout, ClipLayout)
    assert (encoder.layout.sizes.width, encoder.layout.sizes.layers) == (768, 12)
    assert encoded(encoder, "a cat").isfinite().all()


@pytest.mark.parity
def test_every_text_fact_of_sdxl_is_met(reference: Reference, model: Callable[[str], Path]):
    prompts = json.loads((reference.folder / "facts" / "prompts.json").read_text())
    facts = load_file(reference.folder / "facts" / "text_sdxl.safetensors")
    (file,) = weights_of(model("sdxl"), "text_encoder").files
    encoders = [
        Working(load_text_encoder(Weights("text_encoder", part, (file,), part), CPU, torch.float32))
        for part in ("clip_l", "clip_g")
    ]
    for name in ("empty", "plain", "weighted", "escaped"):
        (cond,) = encode_text("sdxl", encoders, Request(prompts[name]["text"], no_embedding))
        assert relative(cond.tokens, facts[f"{name}.cond"]) < 1e-5, name
        assert cond.pooled is not None
        assert relative(cond.pooled, facts[f"{name}.pooled"]) < 1e-5, name
