import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from backend.components import Blend, Share, Source, blended
from backend.models.identity import identify
from backend.models.saved import (
    Entry,
    checkpoint_entries,
    checkpoint_facts,
    encoder_files,
    vae_entries,
    write,
)
from backend.references import Clip, Model, Vae
from tests.backend.models.conftest import file_of, weights_of


def references(path) -> tuple[Model, Clip, Vae]:
    encoder = weights_of(path, "text_encoder")
    return Model(weights_of(path, "denoiser")), Clip((encoder,)), Vae(weights_of(path, "vae"))


def digests(path) -> dict[str, str]:
    return {component.kind: component.digest for component in identify(file_of(path)).components}


def test_a_saved_checkpoint_holds_the_same_components(tiny, tmp_path):
    model, clip, vae = references(tiny)
    path = tmp_path / "saved.safetensors"
    write(path, checkpoint_entries(model, clip, vae), {"prompt": "{}"})
    assert digests(path) == digests(tiny)
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"prompt": "{}"}
        names = set(file.keys())
    assert "cond_stage_model.transformer.text_model.final_layer_norm.weight" in names
    assert not any("position_ids" in name or "logit_scale" in name for name in names)
    assert checkpoint_facts(model, "saved 1") == {"modelspec.predict_key": "epsilon"}


def test_a_merge_is_saved_in_the_dtype_of_its_base(tiny, tmp_path):
    model, _, _ = references(tiny)
    source = Source(model.weights)
    twice = Model(blended(Blend(source, source, (Share("", 1.0, 1.0),))))
    write(tmp_path / "twice.safetensors", checkpoint_entries(twice), None)
    saved, own = load_file(tmp_path / "twice.safetensors"), load_file(tiny)
    assert saved.keys() == {name for name in own if name.startswith("model.diffusion_model.")}
    for name, value in saved.items():
        assert value.dtype == torch.float16
        assert torch.equal(value, own[name] * 2), name


def test_a_velocity_model_says_so(tiny, tmp_path):
    path = tmp_path / "v.safetensors"
    save_file({**load_file(tiny), "v_pred": torch.tensor([])}, path)
    model, _, _ = references(path)
    assert checkpoint_entries(model)["v_pred"].shape == (0,)
    assert checkpoint_facts(model, "t")["modelspec.predict_key"] == "v"


def test_an_encoder_is_saved_by_its_name_with_what_comfyui_adds(tiny, tmp_path):
    _, clip, vae = references(tiny)
    ((end, entries),) = encoder_files(clip).items()
    assert end == "clip_l"
    write(tmp_path / "clip.safetensors", entries, {})
    saved = load_file(tmp_path / "clip.safetensors")
    assert saved["logit_scale"].item() == pytest.approx(4.6055)
    assert torch.equal(saved["text_projection.weight"].float(), torch.eye(64))
    assert identify(file_of(tmp_path / "clip.safetensors")).role("text_encoder").digest == (
        identify(file_of(tiny)).role("text_encoder").digest
    )
    write(tmp_path / "vae.safetensors", vae_entries(vae), None)
    assert digests(tmp_path / "vae.safetensors")["vae"] == digests(tiny)["vae"]


def test_the_file_is_read_by_the_formats_own_library(tmp_path):
    tensors = {"b": torch.rand(3, 2), "a": torch.rand(5).half(), "c": torch.tensor(3), "d": torch.empty(0, 2)}
    entries = {n: Entry(t.dtype, tuple(t.shape), lambda t=t: t) for n, t in tensors.items()}
    write(tmp_path / "x.safetensors", entries, {"ä": "ü"})
    read = load_file(tmp_path / "x.safetensors")
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], value) for name, value in tensors.items())


def test_a_failure_leaves_no_file(tmp_path):
    def fail() -> torch.Tensor:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        write(tmp_path / "x.safetensors", {"a": Entry(torch.float32, (1,), fail)}, None)
    assert list(tmp_path.iterdir()) == []
