import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from backend.components import Blend, LoraUse, Share, Source, Weights, blended
from backend.errors import BadFile
from backend.models import denoiser
from backend.models.blend import Outline, baked, mixed, open_weights
from backend.models.changes import Delta
from backend.models.denoiser import load_denoiser
from backend.models.merged import Lora, Patch
from backend.models.text import load_text_encoder
from tests.backend.models.conftest import CPU, weights_of
from tests.backend.models.families.originals import ALL, original, state_of

PREFIX = "model.diffusion_model."
HALF = Share("", 0.5, 0.5)


def other_of(tiny: Path, folder: Path, **changes: torch.Tensor) -> Path:
    """The tiny checkpoint's denoiser, every weight doubled, in a file of its own without a prefix."""
    tensors = {n.removeprefix(PREFIX): t * 2 for n, t in load_file(tiny).items() if n.startswith(PREFIX)}
    path = folder / "other.safetensors"
    save_file({**tensors, **changes}, path)
    return path


def state(weights: Weights) -> dict[str, torch.Tensor]:
    return load_denoiser(weights, CPU, torch.float32).module.state_dict()


def a_lora(tiny: Path, folder: Path, name: str = "input_blocks_1_1_transformer_blocks_0_attn1_to_q") -> Path:
    width = load_file(tiny)[f"{PREFIX}input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"].shape[0]
    random = torch.Generator().manual_seed(0)
    path = folder / "lora.safetensors"
    save_file(
        {
            f"lora_unet_{name}.lora_up.weight": torch.randn(width, 2, generator=random),
            f"lora_unet_{name}.lora_down.weight": torch.randn(2, width, generator=random),
        },
        path,
    )
    return path


def use_of(path: Path, strength: float) -> LoraUse:
    return LoraUse(weights_of(path, "lora"), strength)


def test_every_tensor_is_the_mean_whatever_the_files_prefixes(tiny, tmp_path):
    first = weights_of(tiny, "denoiser")
    second = weights_of(other_of(tiny, tmp_path), "denoiser")
    merged = state(blended(Blend(Source(first), Source(second), (HALF,))))
    for name, value in state(first).items():
        assert torch.allclose(merged[name], value * 1.5, atol=1e-6), name


def test_the_longest_start_that_fits_a_name_says_the_share(tiny, tmp_path):
    first = weights_of(tiny, "denoiser")
    second = weights_of(other_of(tiny, tmp_path), "denoiser")
    shares = (Share("", 1.0, 0.0), Share("input_blocks.", 0.0, 1.0), Share("input_blocks.0.", 1.0, 1.0))
    merged, own = state(blended(Blend(Source(first), Source(second), shares))), state(first)
    assert torch.equal(merged["conv_out.weight"], own["conv_out.weight"])
    assert torch.allclose(merged["conv_in.weight"], own["conv_in.weight"] * 3, atol=1e-6)
    resnet = "down_blocks.0.resnets.0.conv1.weight"
    assert torch.allclose(merged[resnet], own[resnet] * 2, atol=1e-6)


@pytest.mark.parametrize(("kind", "kept"), [("sd3", "pos_embed.pos_embed"), ("wan", "scale_shift_table")])
def test_what_is_beside_layers_stays_the_bases(kind, kept, tmp_path):
    own = original(ALL[kind], state_of(ALL[kind]))
    save_file({name: value.contiguous() for name, value in own.items()}, tmp_path / "own.safetensors")
    save_file({name: value * 2 for name, value in own.items()}, tmp_path / "other.safetensors")
    first, second = (weights_of(tmp_path / f"{name}.safetensors", "denoiser") for name in ("own", "other"))
    merged, before = state(blended(Blend(Source(first), Source(second), (HALF,)))), state(first)
    for name, value in merged.items():
        factor = 1.0 if name.endswith(kept) else 1.5
        assert torch.allclose(value, before[name] * factor, atol=1e-5), name


def test_merges_of_merges_are_merged(tiny, tmp_path):
    first = weights_of(tiny, "denoiser")
    second = weights_of(other_of(tiny, tmp_path), "denoiser")
    difference = blended(Blend(Source(second), Source(first), (Share("", 1.0, -1.0),)))
    total = blended(Blend(Source(first), Source(difference), (Share("", 1.0, 1.0),)))
    wanted = state(second)
    for name, value in state(total).items():
        assert torch.allclose(value, wanted[name], atol=1e-6), name


def test_a_lora_is_baked_into_the_files_own_tensors(tiny, tmp_path):
    name = "input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    lora = a_lora(tiny, tmp_path)
    first = weights_of(tiny, "denoiser")
    made = open_weights(blended(Blend(Source(first, (use_of(lora, 0.5),)))), denoiser.outline)
    tensors, own, change = dict(made.tensors()), load_file(tiny), load_file(lora)
    up, down = change.values() if next(iter(change)).endswith("up.weight") else reversed(change.values())
    wanted = own[PREFIX + name].float() + 0.5 * (up @ down)
    assert torch.allclose(tensors[PREFIX + name], wanted, atol=1e-5)
    untouched = f"{PREFIX}out.2.weight"
    assert torch.equal(tensors[untouched], own[untouched])


def test_a_text_encoder_is_merged_with_that_of_another_file(tiny, tmp_path):
    prefix = "cond_stage_model.transformer."
    alone = {n.removeprefix(prefix): t * 4 for n, t in load_file(tiny).items() if n.startswith(prefix)}
    save_file(alone, tmp_path / "clip.safetensors")
    first = weights_of(tiny, "text_encoder")
    second = weights_of(tmp_path / "clip.safetensors", "text_encoder")
    merged = load_text_encoder(blended(Blend(Source(first), Source(second), (HALF,))), CPU, torch.float32)
    own = load_text_encoder(first, CPU, torch.float32).module.state_dict()
    for name, value in merged.module.state_dict().items():
        assert torch.allclose(value, own[name] * 2.5, atol=1e-5), name


def test_equal_recipes_make_equal_weights_and_other_numbers_others(tiny):
    source = Source(weights_of(tiny, "denoiser"))
    once, again = (blended(Blend(source, source, (HALF,))) for _ in range(2))
    assert once == again
    assert once.id == again.id != source.weights.id
    assert blended(Blend(source, source, (Share("", 0.5, 0.4),))) != once


def test_a_tensor_of_another_shape_is_left_out_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        made = mixed(torch.ones(2), torch.ones(3), HALF, "some.weight")
    assert made.tolist() == [0.5, 0.5]
    assert "some.weight has the shapes [3] and [2]" in caplog.text
    assert mixed(torch.arange(2), torch.arange(2), HALF, "ids").tolist() == [0, 1]


class Square:
    """A target of one layer, "layer", 2 x 2."""

    def weight_shape(self, site):
        return (2, 2)


@pytest.mark.parametrize(
    "convert",
    [
        lambda name, w: iter([("layer.weight", w[:2]), ("rest.weight", w[2:])]),
        lambda name, w: iter([("layer.weight", w[:2].clone()), ("b.weight", w[2:3]), ("c.weight", w[3:])]),
    ],
)
def test_tensors_that_the_network_takes_apart_are_put_together_again(convert):
    value = torch.arange(8.0).reshape(4, 2)
    patch = Patch(Lora("x", {"layer": Delta(weight=torch.ones(2, 2))}), 1.0)
    made = baked("both.weight", value, Outline(convert, Square()), (patch,))
    assert torch.equal(made, value + torch.tensor([[1.0], [1.0], [0.0], [0.0]]))


@pytest.mark.parametrize(
    "change", [lambda w: torch.cat(w.chunk(2)[::-1]), lambda w: w.t(), lambda w: w.reshape(2, 2, 1, 1)]
)
def test_exchanged_and_turned_tensors_are_turned_back(change):
    value = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    patch = Patch(Lora("x", {"layer": Delta(weight=torch.tensor([[1.0, 0.0], [0.0, 0.0]]))}), 1.0)
    outline = Outline(lambda name, w: iter([("layer.weight", change(w))]), Square())
    made = baked("w", value, outline, (patch,))
    assert (made - value).sum() == 1
    changed = change(made).reshape(2, 2) - change(value).reshape(2, 2)
    assert torch.equal(changed, torch.tensor([[1.0, 0.0], [0.0, 0.0]]))


def test_what_can_not_be_undone_is_named():
    patch = Patch(Lora("x", {"layer": Delta(weight=torch.ones(2, 2))}), 1.0)
    outline = Outline(lambda name, w: iter([("layer.weight", w * 2)]), Square())
    with pytest.raises(BadFile, match="can't be put into this tensor"):
        baked("w", torch.ones(2, 2), outline, (patch,))
