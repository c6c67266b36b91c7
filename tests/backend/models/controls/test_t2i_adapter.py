"""T2I-Adapters against diffusers' own."""

from pathlib import Path

import pytest
import torch
from diffusers.models.adapter import T2IAdapter
from safetensors.torch import save_file

from backend.models.control_layout import ControlInputs
from backend.models.controlnet import load_controlnet
from tests.backend.models.conftest import CPU, relative, weights_of

NOTHING = torch.zeros(1, 4, 16, 16), torch.zeros(1), torch.zeros(1, 77, 8)


@pytest.mark.parametrize(
    ("kind", "widths", "shuffle", "places"),
    [
        ("full_adapter", [32, 64, 128, 128], 8, [2, 5, 8, 11]),
        ("full_adapter_xl", [32, 64, 128, 128], 16, [3, 5, 8]),  # and the middle
        ("light_adapter", [32, 64, 128], 8, [2, 5, 8, 11]),
    ],
)
def test_its_features_are_diffusers(tmp_path: Path, kind: str, widths: list, shuffle: int, places: list):
    theirs = T2IAdapter(3, widths, num_res_blocks=2, downscale_factor=shuffle, adapter_type=kind).eval()
    rng = torch.Generator().manual_seed(1)
    for value in theirs.parameters():
        value.data = torch.randn(value.shape, generator=rng) * 0.05
    state = {name: value.contiguous() for name, value in theirs.state_dict().items()}
    save_file(state, tmp_path / "a.safetensors")
    control = load_controlnet(weights_of(tmp_path / "a.safetensors", "controlnet"), CPU, torch.float32)
    hint = torch.rand(1, 3, 128, 128, generator=rng)
    with torch.no_grad():
        wanted = theirs(hint)
    made = control.forward(ControlInputs(NOTHING[0], hint, NOTHING[1], NOTHING[2], {}))
    assert [i for i, value in enumerate(made.inputs) if value is not None] == places
    features = [value for value in made.inputs if value is not None]
    if made.middle is not None:
        features.append(made.middle)
    assert [relative(a, b) < 1e-5 for a, b in zip(features, wanted, strict=True)] == [True] * 4


def test_a_hint_is_as_large_as_whole_blocks_of_pixels_and_grey_where_one_channel_is_read(tmp_path: Path):
    theirs = T2IAdapter(1, [32, 64, 128, 128], 2, 16, "full_adapter_xl")
    save_file({n: v.contiguous() for n, v in theirs.state_dict().items()}, tmp_path / "a.safetensors")
    control = load_controlnet(weights_of(tmp_path / "a.safetensors", "controlnet"), CPU, torch.float32)
    assert control.hint.fitted(torch.zeros(1, 100, 100, 3), (9, 8)).shape == (1, 1, 80, 64)
