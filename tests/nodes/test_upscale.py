from backend.ops import Upscale
from backend.references import Ref
from tests.nodes.build import a_storage, run


def test_equal_files_are_one_model_whatever_their_names(tmp_path):
    storage = a_storage(tmp_path)
    for name in ("a.pth", "b.pth"):
        (storage.models / "upscale_models" / name).write_bytes(b"weights")
    model = run("UpscaleModelLoader", storage, model_name="a.pth")
    assert model == run("UpscaleModelLoader", storage, model_name="b.pth")
    image = Ref("key")
    assert run("ImageUpscaleWithModel", upscale_model=model, image=image) == Upscale(model, image)
