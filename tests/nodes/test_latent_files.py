import json
import struct

import pytest
import torch

from backend.errors import BadFile
from backend.settings import Settings
from backend.types import Latent
from tests.nodes.build import REGISTRY, a_storage, names_of, run


def header(path) -> dict:
    data = path.read_bytes()
    return json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])


def test_a_saved_latent_is_loaded_as_it_was(tmp_path):
    storage = a_storage(tmp_path)
    samples = torch.randn(2, 4, 8, 6)
    saved = run(
        "SaveLatent", storage, samples=Latent(samples), prompt={"1": {}}, extra_pnginfo={"workflow": {}}
    )
    assert names_of(saved, "latents") == ["ComfyUI_00001_.latent"]
    path = storage.output / "latents" / "ComfyUI_00001_.latent"
    assert header(path)["__metadata__"] == {"prompt": '{"1": {}}', "workflow": "{}"}
    path.rename(storage.input / "mine.latent")
    assert torch.equal(run("LoadLatent", storage, latent="mine.latent").samples, samples)


def test_a_latent_without_metadata_has_none(tmp_path):
    storage = a_storage(tmp_path)
    run(
        "SaveLatent",
        storage,
        Settings(disable_metadata=True),
        samples=Latent(torch.zeros(1, 4, 2, 2)),
        prompt={},
    )
    assert "__metadata__" not in header(storage.output / "latents" / "ComfyUI_00001_.latent")


def test_latent_files_are_listed_and_checked(tmp_path):
    storage = a_storage(tmp_path)
    (storage.input / "a.latent").write_bytes(b"junk")
    (storage.input / "a.png").write_bytes(b"junk")
    spec = REGISTRY.find("LoadLatent")
    assert spec.inputs[0].choice.now(storage) == ["a.latent"]
    assert spec.validate(latent="a.latent", storage=storage) is True
    assert spec.validate(latent="b.latent", storage=storage) == "Invalid latent file: b.latent"
    with pytest.raises(BadFile, match="Invalid latent file"):
        run("LoadLatent", storage, latent="a.latent")
