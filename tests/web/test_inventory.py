import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from backend.settings import Settings
from web.inventory import models

VAE = "first_stage_model."


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Two checkpoints that differ in their denoiser, and their VAE in a file of its own."""
    shared = {VAE + "decoder.w": torch.ones(100), "cond_stage_model.transformer.text_model.w": torch.ones(50)}
    put(tmp_path / "checkpoints/one.safetensors", {**shared, "model.diffusion_model.w": torch.ones(200)})
    put(tmp_path / "checkpoints/two.safetensors", {**shared, "model.diffusion_model.w": torch.zeros(200)})
    put(tmp_path / "vae/own.safetensors", {"decoder.w": torch.ones(100)})
    put(tmp_path / "loras/style.safetensors", {"lora_unet_x.lora_up.weight": torch.ones(10)})
    return tmp_path


def put(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    target = path.parents[1] / "models" / path.parent.name / path.name
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, target)


def listed(base: Path, capsys: pytest.CaptureFixture[str]) -> dict:
    assert models(Settings(base_directory=base), as_json=True) == 0
    return json.loads(capsys.readouterr().out)


def test_every_file_its_components_and_who_shares_them(base: Path, capsys: pytest.CaptureFixture[str]):
    found = listed(base, capsys)
    parts = {f["name"]: {c["kind"]: c["also_in"] for c in f["components"]} for f in found["files"]}
    assert parts == {
        "checkpoints/one.safetensors": {
            "denoiser": [],
            "vae": ["checkpoints/two.safetensors", "vae/own.safetensors"],
            "text_encoder": ["checkpoints/two.safetensors"],
        },
        "checkpoints/two.safetensors": {
            "denoiser": [],
            "vae": ["checkpoints/one.safetensors", "vae/own.safetensors"],
            "text_encoder": ["checkpoints/one.safetensors"],
        },
        "vae/own.safetensors": {"vae": ["checkpoints/one.safetensors", "checkpoints/two.safetensors"]},
        "loras/style.safetensors": {"lora": []},
    }
    assert found["components"] == 5
    assert found["saved_bytes"] == 2 * 400 + 200


def test_the_table_is_for_people(base: Path, capsys: pytest.CaptureFixture[str]):
    models(Settings(base_directory=base), as_json=False)
    shown, progress = capsys.readouterr()
    assert "also in checkpoints/two.safetensors, vae/own.safetensors" in shown
    assert shown.endswith("4 files, 5 components; sharing saves 0.00 MB.\n")
    assert "reading" in progress


def test_a_second_call_reads_nothing(base: Path, capsys: pytest.CaptureFixture[str]):
    first = listed(base, capsys)
    assert models(Settings(base_directory=base), as_json=True) == 0
    shown, progress = capsys.readouterr()
    assert json.loads(shown) == first
    assert "reading" not in progress


def test_a_damaged_file_is_told_and_hides_no_other(base: Path, capsys: pytest.CaptureFixture[str]):
    path = base / "models" / "vae" / "own.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    assert models(Settings(base_directory=base), as_json=True) == 0
    shown, errors = capsys.readouterr()
    broken = next(f for f in json.loads(shown)["files"] if f["name"] == "vae/own.safetensors")
    assert "cut off" in broken["problem"]
    assert "own.safetensors: the file is cut off" in errors


def test_an_empty_folder_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    models(Settings(base_directory=tmp_path), as_json=False)
    assert "Put a checkpoint into models/checkpoints" in capsys.readouterr().out
