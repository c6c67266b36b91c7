from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from backend.errors import BadFile
from backend.models.embeddings import load_embedding

VECTORS = torch.arange(8.0).reshape(2, 4)


@pytest.mark.parametrize(
    "name",
    ["emb_params", "clip_l", "anything", "bundle_emb.frog.string_to_param.*", "bundle_emb.frog.clip_l"],
)
def test_vectors_are_found_under_any_of_their_names(tmp_path: Path, name: str):
    path = tmp_path / "a.safetensors"
    save_file({name: VECTORS.half()}, path)
    assert torch.equal(load_embedding(str(path), 4), VECTORS)


def test_of_several_encoders_the_named_ones_vectors_are_taken(tmp_path: Path):
    path = tmp_path / "a.safetensors"
    save_file({"clip_g": torch.zeros(2, 8), "clip_l": VECTORS}, path)
    assert torch.equal(load_embedding(str(path), 4, "clip_l"), VECTORS)


def test_the_first_web_uis_format_is_read(tmp_path: Path):
    path = tmp_path / "a.pt"
    torch.save(
        {"string_to_token": {"*": 265}, "string_to_param": {"*": torch.nn.Parameter(VECTORS)}, "name": "a"},
        path,
    )
    got = load_embedding(str(path), 4)
    assert torch.equal(got, VECTORS)
    assert not got.requires_grad


def test_a_single_vector_is_a_row(tmp_path: Path):
    path = tmp_path / "a.safetensors"
    save_file({"emb_params": VECTORS[0].contiguous()}, path)
    assert load_embedding(str(path), 4).shape == (1, 4)


def test_vectors_of_another_width_are_refused(tmp_path: Path):
    path = tmp_path / "a.safetensors"
    save_file({"emb_params": VECTORS}, path)
    with pytest.raises(BadFile, match=r"no word vectors of width 768 \(found: \[2, 4\]\)"):
        load_embedding(str(path), 768)


def test_a_file_without_vectors_is_refused(tmp_path: Path):
    path = tmp_path / "a.pt"
    torch.save([1, 2], path)
    with pytest.raises(BadFile, match="found: none"):
        load_embedding(str(path), 4)
