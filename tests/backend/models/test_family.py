import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.errors import UnknownFamily
from backend.models.families.sd15 import Sd15
from backend.models.families.unet_names import Level, parts, to_diffusers, to_original
from backend.models.family import FAMILIES, identify
from backend.models.header import Header, TensorInfo, read_header

FULL = (Level(320, 2, 1), Level(640, 2, 1), Level(1280, 2, 1), Level(1280, 2, 0))


def a_header(tensors: Mapping[str, tuple[int, ...]]) -> Header:
    return Header("a.safetensors", {name: TensorInfo("F16", shape) for name, shape in tensors.items()})


def file_of_layout(layout: Sd15, prefix: str = "model.diffusion_model.") -> Header:
    """The header of the file that a layout would be read from."""
    table = parts(layout.levels)
    shapes = {name: tuple(value.shape) for name, value in layout.build().state_dict().items()}
    names = {name: name.rpartition(".") for name in shapes}
    return a_header(
        {
            f"{prefix}{to_original(site, table)}.{kind}": shapes[name]
            for name, (site, _, kind) in names.items()
        }
    )


def test_the_full_sd15_has_the_names_of_its_published_checkpoint():
    header = file_of_layout(Sd15(FULL, 4, 768, 1280), prefix="")
    assert len(header.tensors) == 686
    assert header.shape("input_blocks.11.0.out_layers.3.weight") == (1280, 1280, 3, 3)
    assert header.shape("input_blocks.8.1.transformer_blocks.0.attn2.to_k.weight") == (1280, 768)
    assert header.shape("output_blocks.2.1.conv.weight") == (1280, 1280, 3, 3)
    assert header.shape("output_blocks.5.2.conv.weight") == (1280, 1280, 3, 3)
    assert header.shape("output_blocks.8.2.conv.weight") == (640, 640, 3, 3)
    assert header.shape("output_blocks.9.0.skip_connection.weight") == (320, 960, 1, 1)
    assert header.shape("output_blocks.11.1.proj_out.weight") == (320, 320, 1, 1)


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", ""])
@pytest.mark.parametrize("in_channels", [4, 9])
def test_a_layout_is_read_back_from_its_own_file(prefix: str, in_channels: int):
    layout = Sd15(FULL, in_channels, 768, 1280)
    family, found, place = identify(file_of_layout(layout, prefix))
    assert (family.name, found, place) == ("sd15", layout, prefix)


@settings(deadline=None, max_examples=40)  # a whole network is laid out for each
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3), st.booleans()), min_size=1, max_size=4))
def test_widths_and_depths_are_read_and_every_name_finds_its_way_back(drawn: list[tuple[int, int, bool]]):
    levels = tuple(Level(32 * width, blocks, int(attention)) for width, blocks, attention in drawn)
    layout = Sd15(levels, 4, 64, 128)
    table = parts(levels)
    for name in layout.build().state_dict():
        site, _, kind = name.rpartition(".")
        assert to_diffusers(f"{to_original(site, table)}.{kind}", table) == name


@settings(deadline=None, max_examples=40)  # a whole network is laid out for each
@given(st.integers(1, 3), st.integers(1, 3), st.sampled_from([64, 768]))
def test_exactly_one_family_claims_a_header(width: int, blocks: int, context: int):
    header = file_of_layout(Sd15((Level(32 * width, blocks, 1),), 4, context, 128 * width), prefix="")
    assert sum(family.detect(header) is not None for family in FAMILIES) == 1


def test_a_mark_in_the_file_makes_it_a_v_model(tiny: Path):
    header = read_header(str(tiny))
    assert identify(header)[1].prediction.kind == "eps"
    marked = Header(header.path, {**header.tensors, "v_pred": TensorInfo("F32", (0,))})
    assert identify(marked)[1].prediction.kind == "v"


@pytest.mark.parametrize(
    "layout", ["sdxl", "sd3", "flux", "wan", "qwen_image", "clip_l", "vae_sd15", "lora_sd15"]
)
def test_models_of_other_kinds_are_not_taken_for_sd15(layout: str, reference):
    shapes = json.loads((reference.folder / "layouts" / f"{layout}.json").read_text())
    header = a_header({name: tuple(shape) for name, (shape, _) in shapes.items()})
    with pytest.raises(UnknownFamily, match=r"no known diffusion model in it: \d+ tensors, such as .*sd15"):
        identify(header)


def test_latents_change_units_and_back():
    latent = torch.randn(1, 4, 2, 2)
    format = FAMILIES[0].detect(file_of_layout(Sd15(FULL, 4, 768, 1280), prefix="")).latent
    assert torch.equal(format.to_model(latent), latent * 0.18215)
    assert torch.allclose(format.from_model(format.to_model(latent)), latent)
