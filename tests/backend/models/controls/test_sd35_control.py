"""Stability's ControlNets of SD 3.5 against blocks of diffusers', with what they take from their model."""

from pathlib import Path

import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.models.transformers.transformer_sd3 import SD3SingleTransformerBlock
from safetensors.torch import save_file
from torch import Tensor

from backend.components import Weights
from backend.errors import BadFile
from backend.models.control_layout import ControlInputs
from backend.models.controlnet import load_controlnet, needs_model
from backend.models.controls.sd35_control import positions
from tests.backend.models.conftest import CPU, file_of, relative

WIDTH, POOLED, DEPTH = 256, 20, 2  # four heads, so the model has four blocks


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.1


def linear(name: str, into: int, out: int, seed: int) -> dict[str, Tensor]:
    return {f"{name}.weight": random(out, into, seed=seed), f"{name}.bias": random(out, seed=seed + 1)}


def patch(name: str, seed: int) -> dict[str, Tensor]:
    return {
        f"{name}.weight": random(WIDTH, 16, 2, 2, seed=seed),
        f"{name}.bias": random(WIDTH, seed=seed + 1),
    }


def control(apart: bool) -> dict[str, Tensor]:
    """In diffusers' names, as published."""
    state = patch("pos_embed_input.proj", 3) | ({"control_type": torch.tensor(2.0)} if apart else {})
    state |= patch("pos_embed.proj", 5) if apart else {}
    text = "time_text_embed.text_embedder"
    state |= linear(f"{text}.linear_1", WIDTH if apart else POOLED, WIDTH, 7) | linear(
        f"{text}.linear_2", WIDTH, WIDTH, 9
    )
    time = "time_text_embed.timestep_embedder"
    state |= linear(f"{time}.linear_1", 256, WIDTH, 11) | linear(f"{time}.linear_2", WIDTH, WIDTH, 13)
    for n in range(DEPTH):
        block, seed = f"transformer_blocks.{n}", 20 * (n + 1)
        state |= linear(f"{block}.adaLN_modulation.1", WIDTH, 6 * WIDTH, seed)
        state |= linear(f"{block}.attn.qkv", WIDTH, 3 * WIDTH, seed + 2)
        state |= linear(f"{block}.attn.proj", WIDTH, WIDTH, seed + 4)
        state |= linear(f"{block}.mlp.fc1", WIDTH, 4 * WIDTH, seed + 6) | linear(
            f"{block}.mlp.fc2", 4 * WIDTH, WIDTH, seed + 8
        )
        state |= linear(f"controlnet_blocks.{n}", WIDTH, WIDTH, seed + 10)
    return state


MODEL = (
    patch("x_embedder.proj", 91)
    | linear("y_embedder.mlp.0", POOLED, WIDTH, 93)
    | linear("y_embedder.mlp.2", WIDTH, WIDTH, 95)
)


def weights(folder: Path, state: dict[str, Tensor], model: bool = True) -> Weights:
    save_file(state, folder / "control.safetensors")
    save_file(
        {f"model.diffusion_model.{name}": value for name, value in MODEL.items()},
        folder / "model.safetensors",
    )
    files = (folder / "control.safetensors", folder / "model.safetensors")[: 1 + model]
    return Weights("controlnet", "c", tuple(file_of(path) for path in files))


def block(state: dict[str, Tensor], n: int) -> SD3SingleTransformerBlock:
    made = SD3SingleTransformerBlock(WIDTH, WIDTH // 64, 64)
    names = {
        "adaLN_modulation.1": "norm1.linear",
        "attn.proj": "attn.to_out.0",
        "mlp.fc1": "ff.net.0.proj",
        "mlp.fc2": "ff.net.2",
    }
    own = {}
    for end in ("weight", "bias"):
        own |= {
            f"{ours}.{end}": state[f"transformer_blocks.{n}.{name}.{end}"] for name, ours in names.items()
        }
        parts = state[f"transformer_blocks.{n}.attn.qkv.{end}"].chunk(3)
        own |= {f"attn.to_{part}.{end}": value for part, value in zip("qkv", parts, strict=True)}
    made.load_state_dict(own)
    return made


def wanted(state: dict[str, Tensor], given: ControlInputs, apart: bool) -> list[Tensor]:
    def through(weights: dict[str, Tensor], first: str, second: str, x: Tensor) -> Tensor:
        inner = torch.nn.functional.linear(x, weights[f"{first}.weight"], weights[f"{first}.bias"])
        return torch.nn.functional.linear(
            torch.nn.functional.silu(inner), weights[f"{second}.weight"], weights[f"{second}.bias"]
        )

    def tokens(weights: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
        made = torch.nn.functional.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], stride=2)
        return made.flatten(2).transpose(1, 2)

    text, time = (f"time_text_embed.{part}_embedder" for part in ("text", "timestep"))
    written = get_timestep_embedding(given.timesteps, 256, flip_sin_to_cos=True, downscale_freq_shift=0)
    told = through(state, f"{time}.linear_1", f"{time}.linear_2", written)
    pooled = (
        through(MODEL, "y_embedder.mlp.0", "y_embedder.mlp.2", given.extra["pooled"])
        if apart
        else given.extra["pooled"]
    )
    told = told + through(state, f"{text}.linear_1", f"{text}.linear_2", pooled)
    hidden = (
        tokens(state, "pos_embed.proj", given.x)
        if apart
        else tokens(MODEL, "x_embedder.proj", given.x) + positions(WIDTH, 4, 6)
    )
    hidden = hidden + tokens(state, "pos_embed_input.proj", given.hint)
    made = []
    for n in range(DEPTH):
        seen = block(state, n)(hidden, told)
        hidden = hidden if apart else seen
        made.append(
            torch.nn.functional.linear(
                seen, state[f"controlnet_blocks.{n}.weight"], state[f"controlnet_blocks.{n}.bias"]
            )
        )
    return made


@pytest.mark.parametrize("apart", [True, False])
def test_what_it_adds_is_what_its_blocks_make_with_their_models_layers(tmp_path: Path, apart: bool):
    state = control(apart)
    found = load_controlnet(weights(tmp_path, state), CPU, torch.float32)
    given = ControlInputs(
        random(2, 16, 8, 12, seed=4),
        random(2, 16, 8, 12, seed=5),
        torch.tensor([300.0, 900.0]),
        random(2, 7, 24, seed=6),
        {"pooled": random(2, POOLED, seed=8)},
    )
    with torch.no_grad():
        first, second = wanted(state, given, apart)
    made = found.forward(given).blocks
    assert len(made) == 4  # of a model with as many blocks as heads
    for ours, theirs in zip(made, (first, first, second, second), strict=True):
        assert ours is not None
        assert relative(ours, theirs) < 1e-5
    assert found.hint.preparation == ("inverted" if apart else "none")
    assert found.hint.latent is not None


def test_it_needs_its_model(tmp_path: Path):
    alone = weights(tmp_path, control(False), model=False)
    assert needs_model(alone.files[0])
    with pytest.raises(BadFile, match="Use it with a model"):
        load_controlnet(alone, CPU, torch.float32)


def test_positions_span_the_known_square_along_the_shorter_side():
    made = positions(8, 2, 4)
    assert made.shape == (8, 8)
    across, down = made[:, 0], made[:, 4]  # the sines of the places themselves
    assert torch.allclose(across[:4], torch.tensor([-7.5, 2.5, 12.5, 22.5]).sin(), atol=1e-5)
    assert torch.allclose(down[::4], torch.tensor([0.0, 15.0]).sin(), atol=1e-5)
