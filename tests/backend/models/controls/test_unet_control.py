"""ControlNets of SDXL, union models and control-LoRAs."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from backend.components import Weights
from backend.errors import UnsupportedOption
from backend.models.control_layout import ControlInputs
from backend.models.controlnet import ControlModel, load_controlnet, needs_model
from backend.models.controls.unet_control import UnetControl
from backend.models.families.sdxl import BASE
from backend.models.families.unet_layout import UnetLayout
from backend.models.families.unet_names import Level, parts, to_original
from tests.backend.models.conftest import CPU, file_of, relative, weights_of

UNET = UnetLayout((Level(64, 1, 0), Level(128, 1, 1)), 4, 96, 256, 2, BASE, linear=True)


def made(layout: UnetControl, path: Path) -> ControlModel:
    """A control model of random weights, by the names that our own module has."""
    module = layout.build().to_empty(device="cpu")
    rng = torch.Generator().manual_seed(1)
    state = {n: torch.randn(v.shape, generator=rng) * 0.05 for n, v in module.state_dict().items()}
    save_file({name.removeprefix("union."): value for name, value in state.items()}, path)
    return load_controlnet(weights_of(path, "controlnet"), CPU, torch.float32)


def rows(kind: int | None = None) -> ControlInputs:
    rng = torch.Generator().manual_seed(2)
    x, hint = torch.randn(2, 4, 16, 16, generator=rng), torch.rand(2, 3, 128, 128, generator=rng)
    tokens, y = torch.randn(2, 77, 96, generator=rng), torch.randn(2, BASE, generator=rng)
    return ControlInputs(x, hint, torch.tensor([10.0, 900.0]), tokens, {"y": y}, kind)


def test_sdxls_gives_what_diffusers_gives(tmp_path: Path):
    control = made(UnetControl(UNET, (16, 32, 96, 256), 3), tmp_path / "a.safetensors")
    given, module = rows(), control.module
    told = module.add_embedding(given.extra["y"])
    module.add_embedding.forward = lambda _: told  # diffusers makes the vector from its parts
    parts = {"text_embeds": torch.zeros(2, 1280), "time_ids": torch.zeros(2, 6)}
    inputs = (given.x, given.timesteps, given.tokens, given.hint)
    with torch.no_grad():
        skips, middle = module(*inputs, added_cond_kwargs=parts, return_dict=False)
    out = control.forward(given)
    assert all(relative(a, b) < 1e-5 for a, b in zip(out.skips, skips, strict=True) if a is not None)
    assert out.middle is not None
    assert relative(out.middle, middle) < 1e-5


def test_it_needs_what_the_model_is_told_beside_the_text(tmp_path: Path):
    control = made(UnetControl(UNET, (16, 32, 96, 256), 3), tmp_path / "a.safetensors")
    given = rows()
    with pytest.raises(UnsupportedOption, match="needs y"):
        control.forward(ControlInputs(given.x, given.hint, given.timesteps, given.tokens, {}))


def test_a_union_model_is_told_the_kind_of_the_hint(tmp_path: Path):
    control = made(UnetControl(UNET, (16, 32, 96, 256), 3, kinds=6), tmp_path / "u.safetensors")
    assert isinstance(control.layout, UnetControl)
    assert control.layout.kinds == 6
    untold, two, three = (control.forward(rows(kind)).middle for kind in (None, 2, 3))
    assert untold is not None
    assert two is not None
    assert three is not None
    assert relative(two, untold) > 1e-4
    assert relative(two, three) > 1e-4
    with pytest.raises(UnsupportedOption, match="type 7 of a ControlNet that knows 6"):
        control.forward(rows(7))


def test_a_control_lora_is_the_models_weights_and_a_product(tmp_path: Path):
    whole = made(UnetControl(UNET, (16, 32, 96, 256), 3), tmp_path / "whole.safetensors")
    state, table = whole.module.state_dict(), parts(UNET.levels)
    trunk = {}
    for name, value in state.items():
        site, _, end = name.rpartition(".")
        if (original := to_original(site, table)) is not None:
            trunk[f"{original}.{end}"] = value.clone()
    up, down = torch.randn(256, 2) * 0.1, torch.randn(2, 64) * 0.1
    trunk["time_embed.0.weight"] -= up @ down
    own = {
        "lora_controlnet": torch.zeros(0),
        "time_embed.0.up": up,
        "time_embed.0.down": down,
        "time_embed.0.bias": trunk["time_embed.0.bias"],
        **{n: v.contiguous() for n, v in state.items() if n.startswith("controlnet_")},
    }
    own = {_hint_name(name): value for name, value in own.items()}
    save_file(own, tmp_path / "lora.safetensors")
    base = {f"model.diffusion_model.{name}": value.contiguous() for name, value in trunk.items()}
    save_file(base, tmp_path / "base.safetensors")
    files = (file_of(tmp_path / "lora.safetensors"), file_of(tmp_path / "base.safetensors"))
    assert needs_model(files[0])
    control = load_controlnet(Weights("controlnet", "both", files), CPU, torch.float32)
    one, other = control.forward(rows()).middle, whole.forward(rows()).middle
    assert one is not None
    assert other is not None
    assert relative(one, other) < 1e-5


def _hint_name(name: str) -> str:
    """diffusers' name of a ControlNet's own tensor -> the original."""
    part, _, rest = name.partition(".")
    end = name.rpartition(".")[2]
    match part:
        case "controlnet_mid_block":
            return f"middle_block_out.0.{end}"
        case "controlnet_down_blocks":
            return f"zero_convs.{rest.split('.')[0]}.0.{end}"
        case "controlnet_cond_embedding":
            place = rest.split(".")
            number = {"conv_in": 0, "conv_out": 7}.get(place[0])
            return f"input_hint_block.{2 * (int(place[1]) + 1 if number is None else number)}.{end}"
    return name
