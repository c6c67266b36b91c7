"""Networks within a model's passes, against their formulas on the tensors of a file."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from backend.errors import BadFile, UnsupportedOption
from backend.models.families.sequence import to_tokens
from backend.models.model_patch import PatchModel, load_model_patch
from tests.backend.models.conftest import CPU, relative, weights_of

WIDTH, STATES, WIDE, MADE = 24, 9, 12, 5


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape))) * 0.3


def linear(name: str, into: int, out: int) -> dict[str, Tensor]:
    return {f"{name}.weight": random(out, into, seed=len(name)), f"{name}.bias": random(out)}


def control(shown: int = 17, depth: int = 2, width: int = WIDTH) -> dict[str, Tensor]:
    tensors = linear("img_in", shown * 4, width)
    for block in range(depth):
        start = f"controlnet_blocks.{block}"
        tensors |= {f"{start}.{n}.weight": 1 + random(width, seed=block) for n in ("x_rms", "y_rms")}
        tensors |= linear(f"{start}.input_proj", width, width) | linear(f"{start}.output_proj", width, width)
    return tensors


def projector() -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for level in ("high", "mid", "low"):
        tensors |= linear(f"feature_embedder.{level}_embedding_linear.0", STATES, MADE)
        norm = f"feature_embedder.{level}_layer_norm"
        tensors |= {f"{norm}.weight": 1 + random(WIDE), f"{norm}.bias": random(WIDE)}
        tensors |= linear(f"feature_embedder.{level}_projection", WIDE, WIDTH)
    return tensors


def loaded(tensors: dict[str, Tensor], folder: Path) -> PatchModel:
    save_file(tensors, folder / "a.safetensors")
    return load_model_patch(weights_of(folder / "a.safetensors", "model_patch"), CPU, torch.float32)


def test_a_block_adds_what_it_makes_of_the_picture_and_of_the_hint(tmp_path: Path):
    tensors = control()
    network = loaded(tensors, tmp_path)
    assert network.shown == 17
    hint, hidden = network.hint(random(1, 17, 4, 6)), random(1, 6, WIDTH, seed=3)
    shown = F.linear(to_tokens(random(1, 17, 4, 6)), tensors["img_in.weight"], tensors["img_in.bias"])
    assert relative(hint, shown) < 1e-5
    with torch.no_grad():
        made = network.added(1, hidden, hint)

    def of(name: str) -> Tensor:
        return tensors[f"controlnet_blocks.1.{name}"]

    both = [
        x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * of(f"{name}.weight")
        for name, x in (("x_rms", hidden), ("y_rms", hint))
    ]
    inner = F.gelu(F.linear(both[0] + both[1], of("input_proj.weight"), of("input_proj.bias")))
    assert made is not None
    assert relative(made, F.linear(inner, of("output_proj.weight"), of("output_proj.bias"))) < 1e-5
    assert network.added(2, hidden, hint) is None  # it has two


def test_a_hint_of_another_size_than_the_models_tokens_is_refused(tmp_path: Path):
    network = loaded(control(), tmp_path)
    with pytest.raises(UnsupportedOption, match="made for this model"):
        network.added(0, random(1, 6, WIDTH + 1), random(1, 6, WIDTH))


def test_a_style_is_made_of_three_layers_the_one_near_the_end_first(tmp_path: Path):
    tensors = projector()
    network = loaded(tensors, tmp_path)
    states = {level: random(1, STATES, WIDE, seed=n) for n, level in enumerate(("high", "mid", "low"))}
    made = network.style(states["low"], states["mid"], states["high"])
    wanted = []
    for level, x in states.items():

        def of(name: str, level: str = level) -> Tensor:
            return tensors[f"feature_embedder.{level}_{name}"]

        mixed = F.silu(F.linear(x.mT, of("embedding_linear.0.weight"), of("embedding_linear.0.bias"))).mT
        normed = F.layer_norm(mixed, (WIDE,), of("layer_norm.weight"), of("layer_norm.bias"))
        wanted.append(F.linear(normed, of("projection.weight"), of("projection.bias")))
    assert relative(made, torch.cat(wanted, dim=1)) < 1e-5


def test_states_of_another_encoder_are_refused(tmp_path: Path):
    network, states = loaded(projector(), tmp_path), random(1, STATES + 1, WIDE)
    with pytest.raises(UnsupportedOption, match="9 tokens of 12 channels"):
        network.style(states, states, states)


def test_a_network_of_the_other_kind_is_refused(tmp_path: Path):
    states = random(1, STATES, WIDE)
    with pytest.raises(UnsupportedOption, match="Load USO's projector"):
        loaded(control(), tmp_path).style(states, states, states)
    with pytest.raises(UnsupportedOption, match="Load a ControlNet of Qwen-Image's blocks"):
        loaded(projector(), tmp_path).added(0, states, states)


def test_another_kind_of_file_is_refused(tmp_path: Path):
    with pytest.raises(BadFile, match="no model patch of a known kind"):
        loaded({"weight": torch.zeros(1)}, tmp_path)
