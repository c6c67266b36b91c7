import pytest

from backend.errors import BadFile, UnsupportedOption
from tests.nodes.build import a_storage, run


@pytest.fixture
def storage(tmp_path):
    made = a_storage(tmp_path)
    for kind, name in [
        ("checkpoints", "sd.safetensors"),
        ("vae", "v.safetensors"),
        ("vae_approx", "taesd_encoder.pth"),
        ("vae_approx", "taesd_decoder.safetensors"),
        ("vae_approx", "taesdxl_encoder.pth"),
        ("text_encoders", "clip_l.safetensors"),
        ("diffusion_models", "unet.safetensors"),
        ("loras", "style.safetensors"),
    ]:
        (made.models / kind / name).write_bytes(b"weights")
    return made


def test_a_checkpoint_is_three_references_to_one_file(storage):
    model, clip, vae = run("CheckpointLoaderSimple", storage, ckpt_name="sd.safetensors")
    kinds = [w.kind for w in (model.weights, *clip.weights, vae.weights)]
    assert kinds == ["denoiser", "text_encoder", "vae"]
    assert model.weights.files == clip.weights[0].files == vae.weights.files


def test_separate_files_give_references_of_their_own(storage):
    assert (
        run("UNETLoader", storage, unet_name="unet.safetensors", weight_dtype="default").weights.kind
        == "denoiser"
    )
    clip = run("CLIPLoader", storage, clip_name="clip_l.safetensors", type="sd3")
    assert (clip.family, clip.weights[0].kind) == ("sd3", "text_encoder")


def test_weights_cast_to_another_format_are_other_weights(storage):
    def weights(dtype: str):
        return run("UNETLoader", storage, unet_name="unet.safetensors", weight_dtype=dtype).weights

    plain, cast = weights("default"), weights("fp8_e5m2")
    assert (plain.narrow, cast.narrow) == ("", "fp8_e5m2")
    assert len({plain.id, cast.id, weights("fp8_e4m3fn").id}) == 3
    assert weights("fp8_e4m3fn_fast") == weights("fp8_e4m3fn")


def test_tiny_autoencoders_are_listed_when_both_files_are_there(storage):
    from nodes.loaders import vae_names

    assert vae_names(storage) == ["v.safetensors", "taesd", "pixel_space"]
    files = run("VAELoader", storage, vae_name="taesd").weights.files
    assert [f.path.rpartition("/")[2] for f in files] == ["taesd_encoder.pth", "taesd_decoder.safetensors"]
    with pytest.raises(UnsupportedOption, match="pixel_space"):
        run("VAELoader", storage, vae_name="pixel_space")


def test_a_missing_file_is_named(storage):
    with pytest.raises(BadFile, match=r"none\.safetensors: no such file among the checkpoints"):
        run("CheckpointLoaderSimple", storage, ckpt_name="none.safetensors")


def test_a_lora_without_strength_leaves_its_side_as_it_is(storage):
    model, clip, _ = run("CheckpointLoaderSimple", storage, ckpt_name="sd.safetensors")
    inputs = {"model": model, "clip": clip, "lora_name": "style.safetensors"}
    styled, same = run("LoraLoader", storage, **inputs, strength_model=0.8, strength_clip=0)
    assert styled.loras[0].strength == 0.8
    assert styled.weights is model.weights
    assert same == clip
    gone = {**inputs, "lora_name": "deleted.safetensors"}
    assert run("LoraLoader", storage, **gone, strength_model=0, strength_clip=0) == (model, clip)
    assert run("LoraLoaderModelOnly", storage, model=model, lora_name="deleted", strength_model=0) is model


def test_loras_stack_in_order(storage):
    model, _, _ = run("CheckpointLoaderSimple", storage, ckpt_name="sd.safetensors")
    for strength in (0.5, -0.25):
        model = run(
            "LoraLoaderModelOnly",
            storage,
            model=model,
            lora_name="style.safetensors",
            strength_model=strength,
        )
    assert [use.strength for use in model.loras] == [0.5, -0.25]


def test_the_last_clip_layer_is_data_on_the_reference(storage):
    clip = run("CLIPLoader", storage, clip_name="clip_l.safetensors", type="stable_diffusion")
    assert run("CLIPSetLastLayer", clip=clip, stop_at_clip_layer=-2).stop_at == -2
    assert clip.stop_at is None
