"""Nodes that change a model: each adds one piece of data to the reference."""

import re

import pytest

from backend.components import Weights
from backend.patches import (
    DiscreteSampling,
    Downscale,
    FreeU,
    PerturbedAttention,
    RescaleCfg,
    SelfAttention,
)
from backend.references import Model
from tests.nodes.build import run

MODEL = Model(Weights("denoiser", "m", ()))


@pytest.mark.parametrize(
    ("name", "inputs", "patch"),
    [
        ("ModelSamplingDiscrete", {"sampling": "lcm", "zsnr": True}, DiscreteSampling("lcm", True)),
        ("RescaleCFG", {}, RescaleCfg(0.7)),
        ("FreeU", {}, FreeU(1.1, 1.2, 0.9, 0.2, 1)),
        ("FreeU_V2", {"b1": 1.5}, FreeU(1.5, 1.4, 0.9, 0.2, 2)),
        ("PerturbedAttentionGuidance", {}, PerturbedAttention(3.0)),
        ("SelfAttentionGuidance", {"scale": 1.0}, SelfAttention(1.0, 2.0)),
        (
            "PatchModelAddDownscale",
            {"downscale_method": "bicubic", "upscale_method": "area"},
            Downscale(3, 2.0, 0.0, 0.35, True, "bicubic", "area"),
        ),
    ],
)
def test_a_patch_is_data_on_the_model_behind_those_there_are(name, inputs, patch):
    once = run(name, model=MODEL, **inputs)
    assert once.patches == (patch,)
    assert once.weights is MODEL.weights
    assert run(name, model=once, **inputs).patches == (patch, patch)
    assert MODEL.patches == ()


def test_attention_is_multiplied_in_a_unets_own_layers_alone():
    model = run("UNetSelfAttentionMultiply", model=MODEL, q=1.2, out=0.5)
    ((pattern, q), *_, (out_pattern, out)) = model.loras[0].factors
    assert (q, out) == (1.2, 0.5)
    assert re.search(pattern, "down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q")
    assert re.search(out_pattern, "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0")
    for other in (
        "transformer_blocks.3.attn1.to_q",
        "down_blocks.0.attentions.1.transformer_blocks.0.attn2.to_q",
    ):
        assert not re.search(pattern, other)
