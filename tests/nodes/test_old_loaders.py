import json

import pytest

from backend.errors import BadFile
from backend.patches import DiscreteSampling
from tests.nodes.build import a_storage, run


@pytest.fixture
def storage(tmp_path):
    made = a_storage(tmp_path)
    (made.models / "checkpoints" / "a.safetensors").write_bytes(b"weights")
    return made


def configured(storage, text):
    (storage.models / "configs" / "c.yaml").write_text(text)
    return run("CheckpointLoader", storage, config_name="c.yaml", ckpt_name="a.safetensors")


def test_a_configuration_says_what_the_model_predicts_and_where_its_text_encoder_stops(storage):
    params = {"parameterization": "v", "cond_stage_config": {"params": {"layer_idx": -2}}}
    model, clip, vae = configured(storage, json.dumps({"model": {"params": params}}))
    assert model.patches == (DiscreteSampling("v_prediction", False),)
    assert clip.stop_at == -2
    assert vae.weights.files == model.weights.files


def test_a_configuration_that_says_nothing_of_it_changes_nothing(storage):
    model, clip, _ = configured(storage, "model: {params: {cond_stage_config: {target: CLIP}}}")
    assert (model.patches, clip.stop_at) == ((), None)
    with pytest.raises(BadFile, match="holds no settings"):
        configured(storage, "- a\n")


def test_a_folder_of_diffusers_is_a_model_its_text_encoders_and_a_vae(storage):
    folder = storage.models / "diffusers" / "sdxl"
    for name in (
        "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "text_encoder_2/model.fp16.safetensors",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    (folder / "model_index.json").write_text("{}")
    assert storage.pipelines() == ["sdxl"]
    model, clip, vae = run("DiffusersLoader", storage, model_path="sdxl")
    assert model.weights.files[0].path.endswith("unet/diffusion_pytorch_model.fp16.safetensors")
    assert vae.weights.files[0].path.endswith("vae/diffusion_pytorch_model.safetensors")
    assert (len(clip.weights), clip.family) == (2, "sdxl")
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(BadFile, match="vae/diffusion_pytorch_model"):
        run("DiffusersLoader", storage, model_path="sdxl")
