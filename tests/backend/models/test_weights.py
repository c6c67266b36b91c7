import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from backend.errors import BadFile
from backend.models.weights import fill, open_model
from tests.backend.models.conftest import CPU


def a_module() -> nn.Module:
    with torch.device("meta"):
        return nn.Linear(3, 2)


def same(name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
    yield name, weight


def saved(path: Path, **tensors: Tensor) -> str:
    save_file({name.replace("__", "."): value for name, value in tensors.items()}, path)
    return str(path)


def test_weights_are_cast_and_placed(tmp_path: Path):
    weight = torch.arange(6.0).reshape(2, 3)
    path = saved(tmp_path / "a.safetensors", in__weight=weight.half(), in__bias=torch.ones(2).half())
    module = a_module()
    nbytes = fill(module, open_model(path).under("in."), same, CPU, torch.float32)
    assert torch.equal(module.weight, weight)
    assert module.weight.dtype is torch.float32
    assert nbytes == 8 * 4
    assert not module.weight.requires_grad
    assert not module.training


def test_a_matrix_may_be_stored_as_a_1x1_kernel(tmp_path: Path):
    path = saved(tmp_path / "a.safetensors", weight=torch.ones(2, 3, 1, 1), bias=torch.ones(2))
    module = a_module()
    fill(module, open_model(path), same, CPU, torch.float32)
    assert module.weight.shape == (2, 3)


@pytest.mark.parametrize(
    ("tensors", "problem"),
    [
        ({"weight": torch.ones(2, 3)}, "is missing 1 tensors: bias"),
        (
            {"weight": torch.ones(2, 3), "bias": torch.ones(2), "more": torch.ones(1)},
            "unexpected 1 tensors: more",
        ),
        ({"weight": torch.ones(3, 2), "bias": torch.ones(2)}, r"'weight' has shape \[3, 2\] .* \[2, 3\]"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_name(
    tmp_path: Path, tensors: dict[str, Tensor], problem: str
):
    path = saved(tmp_path / "a.safetensors", **tensors)
    with pytest.raises(BadFile, match=problem):
        fill(a_module(), open_model(path), same, CPU, torch.float32)


def test_a_checkpoint_in_torchs_own_format_is_read(tmp_path: Path):
    path = tmp_path / "a.ckpt"
    torch.save({"state_dict": {"in.weight": torch.ones(2, 3), "in.bias": torch.zeros(2)}, "step": 3}, path)
    module = a_module()
    fill(module, open_model(str(path)).under("in."), same, CPU, torch.float32)
    assert torch.equal(module.weight, torch.ones(2, 3))


class Trap:
    """Unpickled without care, it makes a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_code_is_refused_and_runs_none(tmp_path: Path, zipped: bool):
    path, sprung = tmp_path / "evil.ckpt", tmp_path / "sprung"
    if zipped:
        torch.save({"state_dict": Trap(str(sprung))}, path)
    else:
        path.write_bytes(pickle.dumps({"state_dict": Trap(str(sprung))}, protocol=2))
    with pytest.raises(BadFile, match="more than tensors"):
        open_model(str(path))
    assert not sprung.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no zip after all", b"hello"])
def test_a_damaged_pickle_is_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    with pytest.raises(BadFile):
        open_model(str(path))
