import torch

from backend.types import Cond
from tests.nodes.build import run


def test_the_upscaling_model_is_shown_a_quarter_of_the_size_to_come():
    side = (Cond(torch.zeros(1, 77, 8), None, {"area": (1, 2, 3, 4)}),)
    positive, negative, latent = run(
        "SD_4XUpscale_Conditioning",
        images=torch.ones(2, 16, 24, 3),
        positive=side,
        negative=side,
        noise_augmentation=0.25,
    )
    assert latent.samples.shape == (2, 4, 16, 24)
    for cond in (*positive, *negative):
        assert cond.options["area"] == (1, 2, 3, 4)
        assert cond.options["noise_augmentation"] == 0.25
        assert cond.options["concat_image"].eq(1).all()  # -1..1
        assert cond.options["concat_image"].shape == (2, 3, 16, 24)


def test_lotus_has_one_encoding_of_its_own():
    (cond,) = run("LotusConditioning")
    assert cond.tokens.shape == (1, 2, 1024)
    assert cond.tokens[0, 0, 0] == -0.3134765625


def test_a_part_of_a_video_has_a_time_too():
    side = (Cond(torch.zeros(1, 77, 8)),)
    (cond,) = run("ConditioningSetAreaPercentageVideo", conditioning=side, temporal=0.5, z=0.25, x=0.1)
    assert cond.options["area"] == ("percentage", 0.5, 1.0, 1.0, 0.25, 0, 0.1)
