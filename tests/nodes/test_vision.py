from backend.components import Weights
from backend.ops import ApplyStyle, EncodeVision
from backend.references import ClipVision, StyleModel
from tests.nodes.build import a_storage, run

VISION = ClipVision(Weights("clip_vision", "v", ()))
STYLE = StyleModel(Weights("style_model", "s", ()))


def test_encoders_and_style_models_are_references_to_their_files(tmp_path):
    storage = a_storage(tmp_path)
    for folder, name in (("clip_vision", "v.safetensors"), ("style_models", "s.safetensors")):
        (storage.models / folder / name).write_bytes(name.encode())
    vision = run("CLIPVisionLoader", storage, clip_name="v.safetensors")
    style = run("StyleModelLoader", storage, style_model_name="s.safetensors")
    assert (vision.weights.kind, style.weights.kind) == ("clip_vision", "style_model")


def test_a_picture_is_cut_in_the_middle_unless_it_is_to_be_whole():
    image = object()
    inputs = {"clip_vision": VISION, "image": image}
    assert run("CLIPVisionEncode", **inputs, crop="center") == EncodeVision(VISION, image, True)
    assert run("CLIPVisionEncode", **inputs, crop="none") == EncodeVision(VISION, image, False)


def test_a_style_is_multiplied_or_weighed_by_attention():
    seen = object()
    inputs = {"conditioning": (), "style_model": STYLE, "clip_vision_output": seen, "strength": 0.5}
    multiplied = run("StyleModelApply", **inputs, strength_type="multiply")
    assert multiplied == ApplyStyle((), STYLE, seen, 0.5, False)
    assert run("StyleModelApply", **inputs, strength_type="attn_bias") == ApplyStyle(
        (), STYLE, seen, 0.5, True
    )
