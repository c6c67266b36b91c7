"""A network computes the same from weights in their file's form as from whole ones, and holds no more than
the file.
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from backend.components import Weights
from backend.models import weights
from backend.models.adapters import adapt
from backend.models.hostcopy import HostCopies
from backend.models.weights import fill, open_model
from tests.backend.models.conftest import CPU
from tests.backend.models.families.originals import FLUX, original, state_of


def run(path: Path, tensors: dict[str, Tensor], **options) -> tuple[Tensor, int]:
    """A pass of a small Flux with these weights, and the bytes it holds."""
    save_file({name: value.contiguous() for name, value in tensors.items()}, path)
    module = FLUX.build()
    adapt(module)
    nbytes = fill(module, open_model(str(path)), FLUX.convert, CPU, torch.float32, **options)
    generator = torch.Generator().manual_seed(1)
    x, text = torch.randn(1, 16, 6, 6, generator=generator), torch.randn(1, 5, 24, generator=generator)
    extra = {"pooled": torch.randn(1, 20, generator=generator), "guidance": torch.tensor([3.5])}
    with torch.no_grad():
        return FLUX.call(module, x, torch.tensor([0.5]), text, extra), nbytes


@pytest.fixture(scope="module")
def plain() -> dict[str, Tensor]:
    return original(FLUX, state_of(FLUX))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_numbers_of_halves_stay_halves(tmp_path: Path, plain, dtype, monkeypatch):
    halves = {name: value.to(dtype) for name, value in plain.items()}
    wide, wide_bytes = run(tmp_path / "a.safetensors", halves)
    monkeypatch.setattr(weights, "LARGE", 0)
    kept, kept_bytes = run(tmp_path / "b.safetensors", halves, frugal=True)
    assert torch.equal(kept, wide)
    assert kept_bytes < 0.52 * wide_bytes


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_eighths_stay_eighths(tmp_path: Path, plain, dtype):
    eighths = {name: value.to(dtype) if value.ndim == 2 else value for name, value in plain.items()}
    kept, kept_bytes = run(tmp_path / "a.safetensors", eighths)
    wide, wide_bytes = run(tmp_path / "b.safetensors", {n: v.float() for n, v in eighths.items()})
    assert torch.equal(kept, wide)
    assert kept_bytes < 0.3 * wide_bytes


@pytest.mark.parametrize("ending", ["scale_weight", "weight_scale"])
def test_scaled_eighths_are_multiplied_back(tmp_path: Path, plain, ending: str):
    scaled: dict[str, Tensor] = {"scaled_fp8": torch.zeros(2).to(torch.float8_e4m3fn)}
    wanted = {}
    for name, value in plain.items():
        scaled[name] = wanted[name] = value
        if value.ndim == 2:
            scale = value.abs().max() / 448
            scaled[name] = (value / scale).to(torch.float8_e4m3fn)
            scaled[f"{name.removesuffix('.weight')}.{ending}"] = scale
            wanted[name] = scaled[name].float() * scale
    kept, kept_bytes = run(tmp_path / "a.safetensors", scaled)
    wide, wide_bytes = run(tmp_path / "b.safetensors", wanted)
    assert torch.equal(kept, wide)
    assert kept_bytes < 0.3 * wide_bytes


def test_workers_share_what_has_no_form_of_its_own_and_map_the_rest_from_the_file(
    tmp_path: Path, plain, monkeypatch
):
    monkeypatch.setattr(weights, "LARGE", 0)
    halves = {name: value.half() for name, value in plain.items()}
    copies = HostCopies(f"{tmp_path}/t-1-")
    copy = copies.of(Weights("denoiser", "digest", ()))
    alone, _ = run(tmp_path / "a.safetensors", halves, frugal=True)
    shared, _ = run(tmp_path / "b.safetensors", halves, frugal=True, copy=copy)
    again, _ = run(tmp_path / "b.safetensors", halves, frugal=True, copy=copy)
    assert torch.equal(alone, shared)
    assert torch.equal(alone, again)


def test_weights_cast_to_eighths_are_those_eighths_wherever_they_stand(tmp_path: Path, plain):
    cast, nbytes = run(tmp_path / "a.safetensors", plain, narrow=torch.float8_e4m3fn)
    rounded = {name: value.to(torch.float8_e4m3fn).float() for name, value in plain.items()}
    wide, wide_bytes = run(tmp_path / "b.safetensors", rounded)
    assert torch.equal(cast, wide)
    assert nbytes < 0.3 * wide_bytes
