from math import log
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from backend.errors import BadFile
from backend.models.style import load_style, styled
from backend.types import ClipVisionOutput, Cond
from tests.backend.models.conftest import CPU, relative, weights_of

TOKENS = torch.ones(1, 3, 8)
COND = Cond(torch.zeros(1, 5, 8))


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))) * 0.2


def test_redux_makes_tokens_of_every_picture_in_a_row(tmp_path: Path):
    names = ("redux_up.weight", "redux_up.bias", "redux_down.weight", "redux_down.bias")
    tensors = dict(zip(names, (noise(24, 16), noise(24), noise(8, 24), noise(8)), strict=True))
    save_file(tensors, tmp_path / "redux.safetensors")
    model = load_style(weights_of(tmp_path / "redux.safetensors", "style_model"), CPU, torch.float32)
    seen = noise(2, 4, 16)
    made = model.tokens(ClipVisionOutput(seen, seen, seen))
    inner = F.silu(F.linear(seen, tensors[names[0]], tensors[names[1]]))
    wanted = F.linear(inner, tensors[names[2]], tensors[names[3]])
    assert relative(made, wanted.reshape(1, 8, 8)) < 1e-5


def test_another_kind_of_file_is_refused(tmp_path: Path):
    save_file({"weight": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(BadFile, match="no style model of a known kind"):
        load_style(weights_of(tmp_path / "a.safetensors", "style_model"), CPU, torch.float32)


def test_a_multiplied_style_stands_behind_the_text():
    made = styled(COND, TOKENS, 0.5, biased=False)
    assert made.tokens[0, :, 0].tolist() == [0, 0, 0, 0, 0, 0.5, 0.5, 0.5]
    assert not made.options


def test_a_biased_style_gets_more_or_less_attention_from_all_that_is_no_style():
    made = styled(COND, TOKENS, 0.5, biased=True)
    mask = made.options["attention_mask"]
    assert isinstance(mask, torch.Tensor)
    assert mask.shape == (1, 9, 9)  # text, style, and one row for all places of the picture
    assert mask[0, 0].tolist() == pytest.approx([0] * 5 + [log(0.5)] * 3 + [0], abs=1e-3)
    assert mask[0, 8].tolist() == mask[0, 0].tolist()
    assert not mask[0, 5:8].any()
    again = styled(made, TOKENS, 1.0, biased=False).options["attention_mask"]
    assert isinstance(again, torch.Tensor)
    assert again[0, 0].tolist() == pytest.approx([0] * 5 + [log(0.5)] * 3 + [0] * 4, abs=1e-3)
