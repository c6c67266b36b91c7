from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from backend.errors import BadFile, UnknownFamily
from backend.models.conditioning import Given
from backend.models.denoiser import Denoiser, describe, load_denoiser
from backend.types import Cond
from tests.backend.models.conftest import CPU, relative, weights_of
from tests.parity.reference import Reference


def loaded(path: Path, dtype: torch.dtype = torch.float32) -> Denoiser:
    return load_denoiser(weights_of(path, "denoiser"), CPU, dtype)


def some_rows(rows: int, context: int = 64) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(rows, 4, 8, 8, generator=rng)
    tokens = torch.randn(rows, 77, context, generator=rng)
    return x, torch.linspace(10, 900, rows), tokens


def test_batched_rows_equal_each_row_alone(tiny: Path):
    denoiser = loaded(tiny)
    x, timesteps, tokens = some_rows(3)
    together = denoiser.forward(x, timesteps, tokens)
    for row in range(3):
        one = slice(row, row + 1)
        assert relative(together[one], denoiser.forward(x[one], timesteps[one], tokens[one])) < 1e-5


def test_the_layout_is_known_without_the_weights(tiny: Path):
    family, layout = describe(weights_of(tiny, "denoiser"))
    found = (family.name, layout.prediction.kind, layout.in_channels, layout.context)
    assert found == ("sd15", "eps", 4, 64)


def test_half_precision_weights_are_used_as_they_lie_on_the_disk(tiny: Path):
    full, half = loaded(tiny), loaded(tiny, torch.float16)
    assert half.nbytes * 2 == full.nbytes
    out = half.forward(*some_rows(1))
    assert out.dtype is torch.float32
    assert relative(out, full.forward(*some_rows(1))) < 0.01


def test_what_it_returns_may_be_changed_in_place(tiny: Path):
    out = loaded(tiny).forward(*some_rows(1))
    assert out.mul_(2).isfinite().all()


def test_rows_that_do_not_agree_are_refused(tiny: Path):
    x, timesteps, tokens = some_rows(2)
    with pytest.raises(ValueError, match="x 2, timesteps 1"):
        loaded(tiny).forward(x, timesteps[:1], tokens)


def test_a_checkpoint_that_lacks_a_tensor_is_refused_by_its_name(tiny: Path, tmp_path: Path):
    tensors = load_file(tiny)
    del tensors["model.diffusion_model.time_embed.2.bias"]
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(BadFile, match=r"missing 1 tensors: time_embedding\.linear_2\.bias"):
        loaded(tmp_path / "a.safetensors")


def test_a_file_of_another_kind_is_refused(tmp_path: Path):
    save_file({"some.weight": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(UnknownFamily, match=r"1 tensors, such as some\.weight"):
        loaded(tmp_path / "a.safetensors")


def test_a_model_in_a_file_of_its_own_equals_the_one_in_a_checkpoint(tiny: Path, tmp_path: Path):
    prefix = "model.diffusion_model."
    own = {n.removeprefix(prefix): v for n, v in load_file(tiny).items() if n.startswith(prefix)}
    save_file(own, tmp_path / "unet.safetensors")
    rows = some_rows(1)
    assert torch.equal(loaded(tmp_path / "unet.safetensors").forward(*rows), loaded(tiny).forward(*rows))


@pytest.mark.parity
def test_one_call_gives_what_comfyui_gives(reference: Reference, model: Callable[[str], Path]):
    facts = load_file(reference.folder / "facts" / "model_sd15.safetensors")
    denoiser = loaded(model("sd15"))
    for sigma in ("0.3", "14.6146"):
        x = facts["x"] * float(sigma) / (float(sigma) ** 2 + 1) ** 0.5
        out = denoiser.forward(x, facts[f"sigma{sigma}.timestep"].float(), facts["context"])
        assert relative(out, facts[f"sigma{sigma}.eps"]) < 1e-5


@pytest.mark.parity
def test_an_inpainting_model_sees_a_grey_image_unless_it_is_given_one(model: Callable[[str], Path]):
    denoiser = loaded(model("sd15_inpaint_unet"))
    assert denoiser.layout.in_channels == 9
    x, timesteps, tokens = some_rows(1, 768)
    grey = torch.tensor([1.0, 0.8223, -0.6876, 0.6364, 0.1380]).reshape(1, 5, 1, 1).expand(1, 5, 8, 8)
    unasked = denoiser.forward(x, timesteps, tokens)
    assert torch.equal(denoiser.forward(x, timesteps, tokens, {"concat": grey}), unasked)
    assert not torch.allclose(denoiser.forward(x, timesteps, tokens, {"concat": grey * 0}), unasked)


@pytest.mark.parity
def test_one_call_of_sdxl_gives_what_comfyui_gives(reference: Reference, model: Callable[[str], Path]):
    facts = load_file(reference.folder / "facts" / "model_sdxl.safetensors")
    text = load_file(reference.folder / "facts" / "text_sdxl.safetensors")
    denoiser = loaded(model("sdxl"))
    for sigma in ("0.3", "14.6146"):
        level = torch.tensor(float(sigma))
        x = facts["x"] * level / (level**2 + 1) ** 0.5
        time = denoiser.layout.prediction.timestep(level).reshape(1).float()
        out = denoiser.forward(x, time, text["plain.cond"], {"y": facts["y"]})
        assert relative(out, facts[f"sigma{sigma}.eps"]) < 1e-5


@pytest.mark.parity
def test_the_sizes_are_told_to_sdxl_as_comfyui_tells_them(reference: Reference, model: Callable[[str], Path]):
    facts = load_file(reference.folder / "facts" / "model_sdxl.safetensors")
    _, layout = describe(weights_of(model("sdxl"), "denoiser"))
    cond = Cond(torch.zeros(1, 77, 2048), facts["adm_1024"][:, :1280])
    made = layout.conditioning(Given(cond, "positive", torch.zeros(1, 4, 128, 128)))
    assert relative(made.plain["y"], facts["adm_1024"]) < 1e-6
