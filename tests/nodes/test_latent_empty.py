import pytest

from tests.nodes.build import run


@pytest.mark.parametrize(
    ("name", "given", "shape"),
    [
        ("EmptyHunyuanLatentVideo", {"length": 25}, (2, 16, 7, 8, 12)),
        ("EmptyMochiLatentVideo", {"length": 25}, (2, 12, 5, 8, 12)),
        ("EmptyLTXVLatentVideo", {"length": 97}, (2, 128, 13, 2, 3)),
        ("EmptyCosmosLatentVideo", {"length": 121}, (2, 16, 16, 8, 12)),
        ("EmptyHunyuanImageLatent", {}, (2, 64, 2, 3)),
        ("EmptyChromaRadianceLatentImage", {}, (2, 3, 64, 96)),
    ],
)
def test_each_family_has_its_channels_and_its_scale(name, given, shape):
    latent = run(name, width=96, height=64, batch_size=2, **given)
    assert latent.samples.shape == shape
    assert not latent.samples.any()


def test_a_shape_for_three_dimensions_says_so():
    latent = run("EmptyLatentHunyuan3Dv2", resolution=77, batch_size=2)
    assert latent.samples.shape == (2, 64, 77)
    assert latent.extra == {"type": "hunyuan3dv2"}


def test_both_stages_of_a_cascade():
    coarse, fine = run("StableCascade_EmptyLatentImage", width=1024, height=512, compression=42)
    assert coarse.samples.shape == (1, 16, 12, 24)
    assert fine.samples.shape == (1, 4, 128, 256)


def test_a_video_loses_its_first_frames():
    video = run("EmptyHunyuanLatentVideo", width=16, height=16, length=13)
    assert run("TrimVideoLatent", samples=video, trim_amount=1).samples.shape[2] == 3
