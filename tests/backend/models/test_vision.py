"""Image encoders against transformers' own."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from backend.errors import BadFile
from backend.models.vision import VisionEncoder, load_vision, prepared
from tests.backend.models.conftest import CPU, relative, weights_of

SIZES = {"hidden_size": 64, "intermediate_size": 100, "num_hidden_layers": 3, "num_attention_heads": 16}
PICTURE = {"image_size": 56, "patch_size": 14}


def saved(module: torch.nn.Module, path: Path) -> VisionEncoder:
    rng = torch.Generator().manual_seed(1)
    for value in module.parameters():
        value.data = torch.randn(value.shape, generator=rng) * 0.05
    outer = ("vision_model.", "visual_projection.")  # some versions leave it out
    state = {n if n.startswith(outer) else f"vision_model.{n}": v for n, v in module.state_dict().items()}
    save_file({name: value.contiguous() for name, value in state.items()}, path)
    return load_vision(weights_of(path, "clip_vision"), CPU, torch.float32)


def pictures(height: int = 90, width: int = 130) -> torch.Tensor:
    return torch.rand(2, height, width, 3, generator=torch.Generator().manual_seed(3))


def test_clip_gives_what_transformers_gives(tmp_path: Path):
    config = CLIPVisionConfig(**SIZES, **PICTURE, projection_dim=48, hidden_act="quick_gelu")
    theirs = CLIPVisionModelWithProjection(config).eval()
    encoder = saved(theirs, tmp_path / "clip.safetensors")
    made = encoder.encode(pictures(), crop=True)
    with torch.no_grad():
        wanted = theirs(prepared(pictures(), encoder.layout, crop=True), output_hidden_states=True)
    assert relative(made.last_hidden_state, wanted.last_hidden_state) < 1e-5
    assert relative(made.penultimate_hidden_states, wanted.hidden_states[-2]) < 1e-5
    assert relative(made.image_embeds, wanted.image_embeds) < 1e-5
    assert made["mm_projected"] is None


def test_siglip_gives_the_states_of_every_layer_and_clip_does_not(tmp_path: Path):
    sizes = {**SIZES, **PICTURE}
    seen = saved(
        SiglipVisionModel(SiglipVisionConfig(**sizes, layer_norm_eps=1e-5)), tmp_path / "s.safetensors"
    )
    made = seen.encode(pictures(), crop=True)
    states = made.all_hidden_states
    assert states is not None
    assert states.shape[:2] == (2, seen.layout.layers)
    assert torch.equal(states[:, -2], made.penultimate_hidden_states)
    clip = saved(CLIPVisionModelWithProjection(CLIPVisionConfig(**sizes)), tmp_path / "c.safetensors")
    assert clip.encode(pictures(), crop=True).all_hidden_states is None


def test_siglip_gives_what_transformers_gives(tmp_path: Path):
    config = SiglipVisionConfig(**SIZES, **PICTURE, vision_use_head=True, layer_norm_eps=1e-5)
    theirs = SiglipVisionModel(config).eval()
    encoder = saved(theirs, tmp_path / "siglip.safetensors")
    made = encoder.encode(pictures(), crop=False)
    with torch.no_grad():
        wanted = theirs(prepared(pictures(), encoder.layout, crop=False))
    assert relative(made.last_hidden_state, wanted.last_hidden_state) < 1e-5


def test_a_picture_is_cut_or_squeezed_into_a_square(tmp_path: Path):
    config = CLIPVisionConfig(**SIZES, **PICTURE)
    layout = saved(CLIPVisionModelWithProjection(config), tmp_path / "clip.safetensors").layout
    image = torch.zeros(1, 100, 300, 3)
    image[:, :, 100:200] = 1.0
    whole, cut = (prepared(image, layout, crop).amin() for crop in (False, True))
    assert cut > whole
    assert prepared(image, layout, crop=True).shape == (1, 3, 56, 56)


def test_another_kind_of_file_is_refused(tmp_path: Path):
    save_file({"weight": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(BadFile, match="no image encoder of a known kind"):
        load_vision(weights_of(tmp_path / "a.safetensors", "clip_vision"), CPU, torch.float32)
