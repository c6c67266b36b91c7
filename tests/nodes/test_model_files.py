import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from backend.components import File, Weights
from backend.references import Clip, ClipVision, Model, Vae
from backend.settings import Settings
from scripts.demo import Size, write_checkpoint
from tests.nodes.build import a_storage, run

TINY = Size(unet=32, levels=(1, 2), attends=(True, False), text_width=64, text_layers=2, vae=32)


@pytest.fixture
def storage(tmp_path):
    return a_storage(tmp_path)


@pytest.fixture
def parts(storage):
    path = storage.models / "checkpoints" / "tiny.safetensors"
    write_checkpoint(path, size=TINY)
    stat = path.stat()
    file = File(str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino)
    kinds = [Weights(kind, kind, (file,)) for kind in ("denoiser", "text_encoder", "vae")]
    return Model(kinds[0]), Clip((kinds[1],)), Vae(kinds[2])


def metadata(path) -> dict[str, str] | None:
    with safe_open(path, "pt") as file:
        return file.metadata()


WORKFLOW = {"prompt": {"1": {}}, "extra_pnginfo": {"workflow": {"id": "w"}}}


def test_a_checkpoint_has_the_workflow_that_made_it(storage, parts):
    model, clip, vae = parts
    for _ in range(2):
        run("CheckpointSave", storage, model=model, clip=clip, vae=vae, **WORKFLOW)
    names = sorted(path.name for path in (storage.output / "checkpoints").iterdir())
    assert names == ["ComfyUI_00001_.safetensors", "ComfyUI_00002_.safetensors"]
    told = metadata(storage.output / "checkpoints" / names[0])
    assert json.loads(told["workflow"]) == {"id": "w"}
    assert json.loads(told["prompt"]) == {"1": {}}
    assert told["modelspec.predict_key"] == "epsilon"
    assert ["checkpoints", "ComfyUI_00001_.safetensors"][1] in storage.files("checkpoints")


def test_parts_are_saved_where_their_loaders_look(storage, parts):
    model, clip, vae = parts
    run("ModelSave", storage, model=model)
    run("CLIPSave", storage, clip=clip, **WORKFLOW)
    run("VAESave", storage, vae=vae)
    assert storage.files("diffusion_models") == ["ComfyUI_00001_.safetensors"]
    assert storage.files("text_encoders") == ["ComfyUI_clip_l_00001_.safetensors"]
    assert storage.files("vae") == ["ComfyUI_vae_00001_.safetensors"]
    assert metadata(storage.find("text_encoders", "ComfyUI_clip_l_00001_.safetensors"))["format"] == "pt"
    assert metadata(storage.find("vae", "ComfyUI_vae_00001_.safetensors")) == {"prompt": ""}


def test_no_workflow_is_written_where_metadata_are_off(storage, parts):
    settings = Settings(base_directory=storage.base, disable_metadata=True)
    run("VAESave", storage, settings, vae=parts[2], **WORKFLOW)
    assert not metadata(storage.find("vae", "ComfyUI_vae_00001_.safetensors"))


def test_an_image_encoder_is_saved_beside_its_model(storage, parts):
    model, _, vae = parts
    path = storage.models / "clip_vision" / "v.safetensors"
    save_file({"vision_model.post_layernorm.weight": torch.ones(4)}, path)
    stat = path.stat()
    eyes = ClipVision(
        Weights("clip_vision", "v", (File(str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino),))
    )
    run("ImageOnlyCheckpointSave", storage, model=model, clip_vision=eyes, vae=vae)
    saved = load_file(storage.find("checkpoints", "ComfyUI_00001_.safetensors"))
    assert saved["vision_model.post_layernorm.weight"].tolist() == [1, 1, 1, 1]
    assert not any(name.startswith("cond_stage_model.") for name in saved)
