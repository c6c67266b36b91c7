import torch

from backend.ops import EncodeText, WithOptions
from backend.references import Clip
from backend.types import Cond, Latent
from tests.nodes.build import a_storage, run

CLIP = Clip((), "flux")
COND = (Cond(torch.zeros(1, 2, 4)), Cond(torch.ones(1, 2, 4), options={"strength": 0.5}))


def test_guidance_is_set_changed_and_taken_away(tmp_path):
    storage = a_storage(tmp_path)
    guided = run("FluxGuidance", storage, conditioning=COND, guidance=2.0)
    assert [cond.options["guidance"] for cond in guided] == [2.0, 2.0]
    assert guided[1].options["strength"] == 0.5
    assert run("FluxDisableGuidance", storage, conditioning=guided)[0].options["guidance"] is None


def test_each_text_encoder_gets_its_own_prompt(tmp_path):
    op = run("CLIPTextEncodeFlux", a_storage(tmp_path), clip=CLIP, clip_l="a", t5xxl="b", guidance=4.0)
    assert isinstance(op, WithOptions)
    assert op.options == {"guidance": 4.0}
    assert isinstance(op.conditioning, EncodeText)
    assert op.conditioning.texts == {"clip_l": "a", "t5xxl": "b"}


def test_reference_pictures_are_appended_in_order(tmp_path):
    storage = a_storage(tmp_path)
    latents = [Latent(torch.full((1, 16, 2, 2), float(n))) for n in range(2)]
    made = COND
    for latent in latents:
        made = run("ReferenceLatent", storage, conditioning=made, latent=latent)
    for cond in made:
        assert [float(r.mean()) for r in cond.options["reference_latents"]] == [0.0, 1.0]
    assert run("ReferenceLatent", storage, conditioning=COND, latent=None) == COND
    method = "FluxKontextMultiReferenceLatentMethod"
    placed = run(method, storage, conditioning=made, reference_latents_method="uxo/uno")
    assert placed[0].options["reference_latents_method"] == "uxo"


def test_a_picture_gets_the_nearest_size_that_kontext_knows(tmp_path):
    wide = run("FluxKontextImageScale", a_storage(tmp_path), image=torch.rand(1, 50, 100, 3))
    assert tuple(wide.shape) == (1, 720, 1456, 3)
    square = run("FluxKontextImageScale", a_storage(tmp_path), image=torch.rand(1, 64, 64, 3))
    assert tuple(square.shape) == (1, 1024, 1024, 3)
