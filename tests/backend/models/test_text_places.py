import json
from collections.abc import Mapping

import pytest

from backend.models.header import Header, TensorInfo
from backend.models.text_places import TextPlace, checkpoint_encoding, chosen_encoding, text_places
from tests.parity.reference import Reference

CLIP = {"text_model.encoder.layers.0.mlp.fc1.weight": (3072, 768)}
SD15 = "cond_stage_model.transformer."
COMFY = "text_encoders.clip_l.transformer."
T5 = {"encoder.block.23.layer.1.DenseReluDense.wi_1.weight": (10240, 4096)}


def a_header(tensors: Mapping[str, tuple[int, ...]], prefix: str = "") -> Header:
    return Header("a", {prefix + name: TensorInfo("F16", shape) for name, shape in tensors.items()})


@pytest.mark.parametrize(
    ("prefix", "place"),
    [
        ("", TextPlace("clip_l")),
        ("clip_l.transformer.", TextPlace("clip_l", "clip_l.transformer.")),
        (
            "text_encoders.clip_l.transformer.",
            TextPlace("clip_l", "text_encoders.clip_l.transformer.", "", True),
        ),
        (
            "cond_stage_model.transformer.",
            TextPlace("clip_l", "cond_stage_model.transformer.", contained=True),
        ),
    ],
)
def test_an_encoder_is_found_wherever_files_keep_it(prefix: str, place: TextPlace):
    assert text_places(a_header(CLIP, prefix)) == (place,)


@pytest.mark.parametrize(
    ("layout", "parts", "encoding"),
    [
        ("sd15", ["clip_l"], "sd15"),
        ("sdxl", ["clip_l", "clip_g"], "sdxl"),
        ("clip_l", ["clip_l"], ""),
        ("clip_g", ["clip_g"], ""),
        ("lora_sd15", [], ""),
        ("vae_flux", [], ""),
    ],
)
def test_the_encoders_of_published_layouts(
    reference: Reference, layout: str, parts: list[str], encoding: str
):
    shapes = json.loads((reference.folder / "layouts" / f"{layout}.json").read_text())
    header = a_header({name: tuple(shape) for name, (shape, _) in shapes.items()})
    assert [place.part for place in text_places(header)] == parts
    assert checkpoint_encoding(header) == encoding


@pytest.mark.parametrize(
    ("type", "parts", "encoding"),
    [
        ("stable_diffusion", ["clip_l"], "sd15"),
        ("flux", ["clip_l"], "sd15"),
        ("sd3", ["clip_l"], "sd3"),
        ("stable_diffusion", ["clip_g"], "sdxl_refiner"),
        ("wan", ["t5xxl"], "wan"),
        ("stable_diffusion", ["t5xxl"], "mochi"),
        ("qwen_image", ["qwen25_7b"], "qwen_image"),
        ("sdxl", ["clip_l", "clip_g"], "sdxl"),
        ("flux", ["t5xxl", "clip_l"], "flux"),
        ("sd3", ["clip_g", "t5xxl"], "sd3"),
        ("sd3", ["clip_l", "clip_g", "t5xxl"], "sd3"),
    ],
)
def test_a_loader_chooses_the_encoding_as_comfyui_does(type: str, parts: list[str], encoding: str):
    assert chosen_encoding(type, parts) == encoding


def test_tensors_that_nothing_computes_with_are_no_part_of_an_encoder():
    header = a_header({**CLIP, "text_projection.weight": (768, 768), "logit_scale": ()})
    assert list(TextPlace("clip_l").named(header)) == list(CLIP)
    assert text_places(a_header(T5)) == (TextPlace("t5xxl"),)
