from backend.components import Weights
from backend.patches import BlockGuide, StyleReference
from backend.references import Model, PatchNetwork, Vae
from tests.nodes.build import a_storage, run

MODEL = Model(Weights("denoiser", "m", ()))
NET = PatchNetwork(Weights("model_patch", "p", ()))
VAE = Vae(Weights("vae", "v", ()))


def test_a_model_patch_is_a_reference_to_its_file(tmp_path):
    storage = a_storage(tmp_path)
    (storage.models / "model_patches").mkdir(exist_ok=True)
    (storage.models / "model_patches" / "p.safetensors").write_bytes(b"p")
    assert run("ModelPatchLoader", storage, name="p.safetensors").weights.kind == "model_patch"


def test_a_patch_stands_behind_those_that_the_model_has():
    image, seen = object(), object()
    inputs = {"model_patch": NET, "vae": VAE, "image": image, "strength": -2.0}
    guided = run("QwenImageDiffsynthControlnet", model=MODEL, **inputs)
    assert guided.patches == (BlockGuide(NET, VAE, image, -2.0),)
    both = run("USOStyleReference", model=guided, model_patch=NET, clip_vision_output=seen)
    assert both.patches == (*guided.patches, StyleReference(NET, seen))
