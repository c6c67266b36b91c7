"""ControlNets from files of both namings, and what they add to a pass."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from backend.components import Weights
from backend.errors import BadFile, UnsupportedOption
from backend.models.additions import Additions, Residuals
from backend.models.control_layout import ControlInputs, HintFormat
from backend.models.controlnet import load_controlnet, scaled
from backend.models.controls.unet_control import UnetControl
from backend.models.denoiser import load_denoiser
from tests.backend.models.conftest import CPU, file_of, relative, weights_of
from tests.control_files import ROOT, control_tensors


@pytest.fixture(scope="module")
def control_file(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("control") / "control.safetensors"
    save_file(control_tensors(tiny), path)
    return path


def some_rows(rows: int) -> tuple[torch.Tensor, ...]:
    rng = torch.Generator().manual_seed(1)
    x, hint = torch.randn(rows, 4, 8, 8, generator=rng), torch.rand(rows, 3, 64, 64, generator=rng)
    return x, hint, torch.linspace(10, 900, rows), torch.randn(rows, 77, 64, generator=rng)


def inputs(x, hint, timesteps, tokens, **extra) -> ControlInputs:
    return ControlInputs(x, hint, timesteps, tokens, extra)


def test_its_sizes_are_read_from_the_file(control_file: Path):
    control = load_controlnet(weights_of(control_file, "controlnet"), CPU, torch.float32)
    assert isinstance(control.layout, UnetControl)
    assert [level.channels for level in control.layout.unet.levels] == [32, 64]
    assert (control.layout.hints, control.layout.unet.context) == ((16, 32, 96, 256), 64)
    made = control.forward(inputs(*some_rows(2)))
    assert [tuple(skip.shape[1:]) for skip in made.skips] == [(32, 8, 8), (32, 8, 8), (32, 4, 4), (64, 4, 4)]
    assert tuple(made.middle.shape) == (2, 64, 4, 4)


def test_batched_rows_equal_each_row_alone(control_file: Path):
    control = load_controlnet(weights_of(control_file, "controlnet"), CPU, torch.float32)
    rows = some_rows(3)
    together = control.forward(inputs(*rows))
    for i in range(3):
        alone = control.forward(inputs(*(value[i : i + 1] for value in rows)))
        assert relative(together.middle[i : i + 1], alone.middle) < 1e-5
        assert relative(together.skips[0][i : i + 1], alone.skips[0]) < 1e-5


def test_a_file_with_diffusers_names_is_the_same_model(control_file: Path, tmp_path: Path):
    control = load_controlnet(weights_of(control_file, "controlnet"), CPU, torch.float32)
    other = tmp_path / "diffusers.safetensors"
    save_file({name: value.contiguous() for name, value in control.module.state_dict().items()}, other)
    again = load_controlnet(weights_of(other, "controlnet"), CPU, torch.float32)
    assert again.layout == control.layout
    assert torch.equal(
        again.forward(inputs(*some_rows(1))).middle, control.forward(inputs(*some_rows(1))).middle
    )


def test_a_difference_is_added_to_the_checkpoint_it_is_given(tiny: Path, control_file: Path, tmp_path: Path):
    whole = load_controlnet(weights_of(control_file, "controlnet"), CPU, torch.float32)
    unet = {n: v.float() for n, v in load_file(tiny).items() if n.startswith("model.diffusion_model.")}
    difference = {
        name: value - unet.get(name.replace(ROOT, "model.diffusion_model."), torch.zeros(()))
        for name, value in load_file(control_file).items()
    }
    path = tmp_path / "difference.safetensors"
    save_file({**difference, "difference": torch.zeros(0)}, path)
    with pytest.raises(BadFile, match="DiffControlNetLoader"):
        load_controlnet(weights_of(path, "controlnet"), CPU, torch.float32)
    both = Weights("controlnet", "both", (file_of(path), file_of(tiny)))
    made = load_controlnet(both, CPU, torch.float32).forward(inputs(*some_rows(1)))
    assert relative(made.middle, whole.forward(inputs(*some_rows(1))).middle) < 1e-4


def test_another_kind_of_file_is_refused(tiny: Path):
    with pytest.raises(BadFile, match="no control model of a known kind"):
        load_controlnet(weights_of(tiny, "controlnet"), CPU, torch.float32)


def test_its_residuals_change_the_denoisers_pass_and_zeros_do_not(tiny: Path, control_file: Path):
    denoiser = load_denoiser(weights_of(tiny, "denoiser"), CPU, torch.float32)
    control = load_controlnet(weights_of(control_file, "controlnet"), CPU, torch.float32)
    x, hint, timesteps, tokens = some_rows(2)
    plain = denoiser.forward(x, timesteps, tokens)
    made = scaled(
        control.forward(inputs(x, hint, timesteps, tokens)), torch.tensor([0.0, 0.7]), average=False
    )
    out = denoiser.forward(x, timesteps, tokens, additions=Additions(made))
    assert torch.equal(out[:1], plain[:1])
    assert relative(out[1:], plain[1:]) > 1e-3


def test_residuals_are_spread_over_the_rows_of_a_pass():
    values = Residuals((torch.tensor([[[[1.0]]], [[[2.0]]]]),), torch.tensor([[[[3.0]]], [[[4.0]]]]))
    wide = values.spread(torch.tensor([2, 0]), 4)
    assert wide.skips[0].flatten().tolist() == [2.0, 0.0, 1.0, 0.0]
    assert values.spread(torch.tensor([1, 0]), 2).middle.flatten().tolist() == [4.0, 3.0]
    assert wide.plus(wide).middle.flatten().tolist() == [8.0, 0.0, 6.0, 0.0]


def test_averaged_residuals_are_equal_all_over_the_picture():
    values = Residuals((), torch.arange(4.0).reshape(1, 1, 2, 2))
    assert scaled(values, torch.tensor([2.0]), average=True).middle.flatten().tolist() == [3.0] * 4


def test_a_hint_is_cut_to_the_latents_shape_and_resized():
    image = torch.zeros(1, 100, 300, 3)
    image[:, :, 100:200] = 1.0
    hint = HintFormat().fitted(image, (8, 8))
    assert tuple(hint.shape) == (1, 3, 64, 64)
    assert bool(hint.eq(1.0).all())


def test_a_controlnet_made_for_another_model_is_refused(tiny: Path, control_file: Path):
    denoiser = load_denoiser(weights_of(tiny, "denoiser"), CPU, torch.float32)
    control = load_controlnet(weights_of(control_file, "controlnet"), CPU, torch.float32)
    x, hint, timesteps, tokens = some_rows(1)
    with pytest.raises(UnsupportedOption, match=r"768 wide.*made for this model"):
        control.forward(inputs(x, hint, timesteps, torch.zeros(1, 77, 768)))
    made = control.forward(inputs(x, hint, timesteps, tokens))
    for other in (Residuals(made.skips[:2], made.middle), Residuals(made.skips, made.middle[:, :32])):
        with pytest.raises(UnsupportedOption, match=r"control_net.*made for this model"):
            denoiser.forward(x, timesteps, tokens, additions=Additions(other))
