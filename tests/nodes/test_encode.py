import torch

from backend.components import Weights
from backend.ops import EncodePixels, EncodeText, ScalePixels, WithOptions
from backend.references import Clip, Vae
from tests.nodes.build import a_storage, run

CLIP = Clip((), "sd3")
VAE = Vae(Weights("vae", "v", ()))
IMAGE = torch.rand(1, 32, 48, 3)


def test_an_empty_prompt_of_sd3_counts_for_nothing_or_as_an_empty_prompt(tmp_path):
    texts = {"clip_l": "a", "clip_g": "", "t5xxl": ""}
    nothing = run("CLIPTextEncodeSD3", a_storage(tmp_path), clip=CLIP, empty_padding="none", **texts)
    assert isinstance(nothing, EncodeText)
    assert (nothing.texts, nothing.left_out) == (texts, ("clip_g", "t5xxl"))
    empty = run("CLIPTextEncodeSD3", a_storage(tmp_path), clip=CLIP, empty_padding="empty_prompt", **texts)
    assert empty.left_out == ()


def test_t5s_filling_is_an_option_of_the_encoder(tmp_path):
    clip = run("T5TokenizerOptions", a_storage(tmp_path), clip=CLIP, min_padding=3, min_length=64)
    assert dict(clip.options)["t5xxl_min_padding"] == 3
    assert dict(clip.options)["t5xxl_min_length"] == 64
    again = run("T5TokenizerOptions", a_storage(tmp_path), clip=clip, min_padding=0, min_length=8)
    assert dict(again.options)["t5xxl_min_length"] == 8


def test_an_edit_shows_its_picture_to_the_encoder_and_to_the_model(tmp_path):
    inputs = {"clip": CLIP, "prompt": "make it blue", "image": IMAGE}
    op = run("TextEncodeQwenImageEdit", a_storage(tmp_path), vae=VAE, **inputs)
    assert isinstance(op, WithOptions)
    assert isinstance(op.conditioning, EncodeText)
    assert op.conditioning.images == (ScalePixels(IMAGE, 1024 * 1024),)
    assert op.appended == {"reference_latents": EncodePixels(VAE, ScalePixels(IMAGE, 1024 * 1024))}
    seen = run("TextEncodeQwenImageEdit", a_storage(tmp_path), vae=None, **inputs)
    assert seen == op.conditioning
    words = run("TextEncodeQwenImageEdit", a_storage(tmp_path), clip=CLIP, prompt="a", vae=VAE, image=None)
    assert words == EncodeText(CLIP, "a")


def test_an_edit_of_several_pictures_names_each_by_its_number(tmp_path):
    op = run(
        "TextEncodeQwenImageEditPlus",
        a_storage(tmp_path),
        clip=CLIP,
        prompt="swap them",
        vae=VAE,
        image1=IMAGE,
        image2=None,
        image3=IMAGE,
    )
    picture = "<|vision_start|><|image_pad|><|vision_end|>"
    inner = op.conditioning
    encoded = inner.conditioning
    assert f"user\nPicture 1: {picture}Picture 3: {picture}swap them<|im_end|>" in encoded.text
    assert encoded.images == (ScalePixels(IMAGE, 384 * 384),) * 2
    shown = EncodePixels(VAE, ScalePixels(IMAGE, 1024 * 1024, multiple=8))
    assert op.appended == inner.appended == {"reference_latents": shown}
