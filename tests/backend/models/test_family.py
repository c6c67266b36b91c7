import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from backend.errors import UnknownFamily, UnsupportedOption
from backend.models.conditioning import Given
from backend.models.families.sd15 import Sd15
from backend.models.families.sdxl import BASE, REFINER, Sdxl, embedded
from backend.models.families.unet_layout import UnetLayout
from backend.models.families.unet_names import Level, parts, to_diffusers, to_original
from backend.models.family import FAMILIES, identify
from backend.models.header import Header, TensorInfo, read_header
from backend.models.parts import DENOISER_PREFIXES
from backend.sampling.discretization import sigma_max
from backend.types import Cond
from tests.parity.reference import Reference

FULL = (Level(320, 2, 1), Level(640, 2, 1), Level(1280, 2, 1), Level(1280, 2, 0))


def a_header(tensors: Mapping[str, tuple[int, ...]]) -> Header:
    return Header("a.safetensors", {name: TensorInfo("F16", shape) for name, shape in tensors.items()})


def file_of_layout(layout: Sd15 | Sdxl, prefix: str = "model.diffusion_model.") -> Header:
    """The header of the file that a layout would be read from."""
    table = parts(layout.unet.levels)
    shapes = {name: tuple(value.shape) for name, value in layout.build().state_dict().items()}
    names = {name: name.rpartition(".") for name in shapes}
    return a_header(
        {
            f"{prefix}{to_original(site, table)}.{kind}": shapes[name]
            for name, (site, _, kind) in names.items()
        }
    )


def test_the_full_sd15_has_the_names_of_its_published_checkpoint():
    header = file_of_layout(Sd15(UnetLayout(FULL, 4, 768, 1280)), prefix="")
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
    layout = Sd15(UnetLayout(FULL, in_channels, 768, 1280))
    family, found, place = identify(file_of_layout(layout, prefix))
    assert (family.name, found, place) == ("sd15", layout, prefix)


@settings(max_examples=40)  # a whole network is laid out for each
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3), st.booleans()), min_size=1, max_size=4))
def test_widths_and_depths_are_read_and_every_name_finds_its_way_back(drawn: list[tuple[int, int, bool]]):
    levels = tuple(Level(32 * width, blocks, int(attention)) for width, blocks, attention in drawn)
    layout = Sd15(UnetLayout(levels, 4, 64, 128))
    table = parts(levels)
    for name in layout.build().state_dict():
        site, _, kind = name.rpartition(".")
        assert to_diffusers(f"{to_original(site, table)}.{kind}", table) == name


def claims(header: Header) -> list[str]:
    return [family.name for family in FAMILIES if family.detect(header) is not None]


@settings(max_examples=30)  # a whole network is laid out for each
@given(st.integers(1, 3), st.integers(1, 3), st.sampled_from([64, 768]), st.sampled_from([4, 8, 9]))
def test_only_sd15_claims_what_it_lays_out(width: int, blocks: int, context: int, inputs: int):
    layout = Sd15(UnetLayout((Level(32 * width, blocks, 1),), inputs, context, 128 * width))
    header = file_of_layout(layout, prefix="")
    assert claims(header) == ["sd15"]
    assert identify(header)[1] == layout


@settings(max_examples=30)  # a whole network is laid out for each
@given(st.integers(1, 2), st.integers(1, 2), st.integers(0, 3), st.sampled_from([4, 8, 9]), st.booleans())
def test_only_sdxl_claims_what_it_lays_out(width: int, blocks: int, depth: int, inputs: int, refiner: bool):
    levels = (Level(64 * width, blocks, 0), Level(64, blocks, depth))
    classes = REFINER if refiner else BASE
    layout = Sdxl(UnetLayout(levels, inputs, 128, 256 * width, depth or 2, classes, linear=True))
    header = file_of_layout(layout, prefix="")
    assert claims(header) == ["sdxl"]
    assert identify(header)[1] == layout


# Of the reference set's layouts: those of diffusion models, and whose they are. No family claims the others.
OWNERS = {
    **{name: name for name in ("sd15", "sdxl", "sd3", "flux", "qwen_image", "wan")},
    "sd15_inpaint_unet": "sd15",
}


def test_one_family_claims_each_known_model_and_none_anything_else(reference: Reference):
    for path in sorted((reference.folder / "layouts").glob("*.json")):
        shapes = json.loads(path.read_text())
        header = a_header({name: tuple(shape) for name, (shape, _) in shapes.items()})
        found = {name for prefix in DENOISER_PREFIXES for name in claims(header.under(prefix))}
        assert found == ({OWNERS[path.stem]} if path.stem in OWNERS else set()), path.stem


@pytest.mark.parametrize(
    ("marks", "kind", "top"),
    [
        ((), "eps", 14.6146),
        (("v_pred",), "v", 14.6146),
        (("v_pred", "ztsnr"), "v", 4518.76),
        (("edm_mean", "edm_std"), "edm", 80.0),
        (("edm_vpred.sigma_max", "edm_vpred.sigma_min"), "v", 120.0),
    ],
)
def test_marks_say_what_an_sdxl_model_predicts(marks: tuple[str, ...], kind: str, top: float):
    plain = file_of_layout(Sdxl(UnetLayout((Level(64, 1, 1),), 4, 128, 256, 1, BASE, linear=True)))
    marked = {**plain.tensors, **{mark: TensorInfo("F32", (0,)) for mark in marks}}
    _, layout, _ = identify(Header(plain.path, marked))
    assert layout.prediction.kind == kind
    assert sigma_max(layout.prediction.range) == pytest.approx(top, rel=1e-4)


def test_sdxl_is_told_the_sizes_of_the_picture_or_those_that_a_node_says():
    unet = UnetLayout((Level(64, 1, 1),), 4, 2048, 256, 1, BASE, linear=True)
    latent = torch.zeros(1, 4, 16, 8)

    def told(layout: Sdxl, side: str = "positive", wide: int = 1280, **options: object) -> Tensor:
        cond = Cond(torch.zeros(1, 77, 2048), torch.zeros(1, wide), options)
        return layout.conditioning(Given(cond, side, latent)).plain["y"][:, wide:]

    assert torch.equal(told(Sdxl(unet)), embedded([128, 64, 0, 0, 128, 64]))
    sizes = {"width": 1024, "height": 768, "crop_w": 8, "crop_h": 16, "target_width": 512}
    assert torch.equal(told(Sdxl(unet), **sizes), embedded([768, 1024, 16, 8, 768, 512]))
    refiner = Sdxl(replace(unet, classes=REFINER))
    assert torch.equal(told(refiner), embedded([128, 64, 0, 0, 6]))
    assert torch.equal(told(refiner, "negative"), embedded([128, 64, 0, 0, 2.5]))
    assert torch.equal(told(refiner, aesthetic_score=7.5), embedded([128, 64, 0, 0, 7.5]))
    with pytest.raises(UnsupportedOption, match="pooled text of width 768"):
        told(Sdxl(unet), wide=768)


def test_a_mark_in_the_file_makes_it_a_v_model(tiny: Path):
    header = read_header(str(tiny))
    assert identify(header)[1].prediction.kind == "eps"
    marked = Header(header.path, {**header.tensors, "v_pred": TensorInfo("F32", (0,))})
    assert identify(marked)[1].prediction.kind == "v"


def test_a_unet_in_diffusers_names_is_the_same_model():
    layout = Sdxl(UnetLayout((Level(64, 2, 0), Level(128, 2, 3)), 4, 128, 256, 2, BASE, linear=True))
    shapes = {name: tuple(value.shape) for name, value in layout.build().state_dict().items()}
    assert claims(a_header(shapes)) == ["sdxl"]
    assert identify(a_header(shapes))[1] == layout


def test_what_is_no_diffusion_model_is_refused_with_what_was_found():
    with pytest.raises(UnknownFamily, match=r"no known diffusion model in it: 1 tensors, such as .*sd15"):
        identify(a_header({"text_model.embeddings.token_embedding.weight": (9, 9)}))


def test_latents_change_units_and_back():
    latent = torch.randn(1, 4, 2, 2)
    format = FAMILIES[0].detect(file_of_layout(Sd15(UnetLayout(FULL, 4, 768, 1280)), prefix="")).latent
    assert torch.equal(format.to_model(latent), latent * 0.18215)
    assert torch.allclose(format.from_model(format.to_model(latent)), latent)
