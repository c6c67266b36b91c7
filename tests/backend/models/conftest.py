"""Model files for the tests: small ones made here, and those of the reference set where there is one."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from backend.components import ComponentKind, File, Weights
from scripts.demo import Size, write_checkpoint
from tests.parity.reference import ABSENT, CACHE, Reference, find_reference

TINY = Size(
    unet=32,
    levels=(1, 2),
    attends=(True, False),
    text_width=64,
    text_layers=2,
    vae=32,
    vae_levels=(1, 2, 4, 4),
)
CPU = torch.device("cpu")


def file_of(path: Path | str) -> File:
    state = os.stat(path)
    return File(str(path), state.st_size, state.st_mtime_ns, state.st_ino)


def weights_of(path: Path | str, kind: ComponentKind) -> Weights:
    return Weights(kind, str(path), (file_of(path),))


def relative(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """norm(got - wanted) / norm(wanted)."""
    assert got.shape == wanted.shape
    return float((got - wanted).norm() / wanted.norm())


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in SD1.5's layout, a hundredth of its size."""
    path = tmp_path_factory.mktemp("models") / "tiny.safetensors"
    write_checkpoint(path, size=TINY)
    return path


@pytest.fixture(scope="session")
def reference() -> Reference:
    if (found := find_reference()) is None:
        pytest.skip(ABSENT)
    return found


@pytest.fixture(scope="session")
def model(reference: Reference) -> Callable[[str], Path]:
    """Makes a model file of the reference set: by its layout's name."""
    return lambda layout: reference.make_model(CACHE / "base", layout)
