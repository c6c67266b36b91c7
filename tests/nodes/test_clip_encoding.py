from backend.components import Weights
from backend.ops import EmptyLike, EncodePixels, EncodeText, WithControlText, WithOptions
from backend.references import Clip, Vae
from tests.nodes.build import a_storage, run


def test_sdxl_has_a_text_for_each_encoder_and_is_told_sizes(tmp_path):
    sizes = {"width": 1, "height": 2, "crop_w": 3, "crop_h": 4, "target_width": 5, "target_height": 6}
    op = run("CLIPTextEncodeSDXL", a_storage(tmp_path), clip=Clip(()), text_g="big", text_l="small", **sizes)
    assert op == WithOptions(EncodeText(Clip(()), "big", (), {"clip_l": "small"}), sizes)


def test_the_refiner_is_told_how_much_the_picture_shall_please(tmp_path):
    inputs = {"clip": Clip(()), "text": "a cat", "ascore": 7.0, "width": 8, "height": 16}
    op = run("CLIPTextEncodeSDXLRefiner", a_storage(tmp_path), **inputs)
    options = {"aesthetic_score": 7.0, "width": 8, "height": 16}
    assert op == WithOptions(EncodeText(Clip(()), "a cat"), options)


def test_instruct_pix_to_pix_is_shown_the_picture_and_starts_from_nothing():
    vae, pixels = Vae(Weights("vae", "v", ())), object()
    positive, negative, latent = run(
        "InstructPixToPixConditioning", positive=(), negative=(), vae=vae, pixels=pixels
    )
    assert positive == negative == WithOptions((), {"concat_latent_image": EncodePixels(vae, pixels)})
    assert latent == EmptyLike(EncodePixels(vae, pixels))


def test_a_controlnet_may_read_a_text_of_its_own(tmp_path):
    op = run("CLIPTextEncodeControlnet", a_storage(tmp_path), clip=Clip(()), conditioning=(), text="a cat")
    assert op == WithControlText((), EncodeText(Clip(()), "a cat"))


def test_lumina_is_told_what_it_is_before_the_prompt(tmp_path):
    inputs = {"clip": Clip(()), "system_prompt": "alignment", "user_prompt": "a fox"}
    op = run("CLIPTextEncodeLumina2", a_storage(tmp_path), **inputs)
    assert op.text.startswith("You are an assistant designed to generate high-quality images")
    assert op.text.endswith(" <Prompt Start> a fox")
