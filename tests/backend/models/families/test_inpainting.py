"""What UNets are shown beside the latent."""

import torch

from backend.models.conditioning import Given
from backend.models.families.inpainting import BLANK, beside, shown
from backend.models.latent import LatentFormat
from backend.types import Cond

FORMAT = LatentFormat(channels=4, downscale=8, scale=0.5)
PICTURE = torch.full((1, 4, 16, 16), 2.0)


def given(mask: torch.Tensor | None = None, **options: object) -> Given:
    cond = Cond(torch.zeros(1, 77, 8), options=options)
    return Given(cond, "positive", torch.zeros(2, 4, 8, 8), mask)


def test_a_model_with_plain_inputs_is_shown_nothing():
    assert not shown(given(concat_latent_image=PICTURE), 4, FORMAT).placed
    x = torch.ones(2, 4, 8, 8)
    assert beside(x, 4, None) is x


def test_instruct_pix_to_pix_sees_the_picture_as_the_vae_made_it_or_scaled():
    plain, scaled = (
        shown(given(concat_latent_image=PICTURE), 8, FORMAT, scaled=flag).placed["concat"]
        for flag in (False, True)
    )
    assert plain.shape == (2, 4, 8, 8)
    assert bool(plain.eq(2.0).all())
    assert bool(scaled.eq(1.0).all())
    assert not shown(given(), 8, FORMAT).placed["concat"].any()


def test_an_inpainting_model_sees_the_mask_and_the_picture_or_a_blank_one():
    mask = torch.full((1, 1, 8, 8), 0.7)
    made = shown(given(concat_latent_image=PICTURE, concat_mask=mask), 9, FORMAT).placed["concat"]
    assert made.shape == (2, 5, 8, 8)
    assert bool(made.eq(1.0).all())  # the mask rounded, the picture in the model's units
    assert not shown(given(), 9, FORMAT).placed
    blank = beside(torch.zeros(1, 4, 2, 2), 9, None)[0, 4:, 0, 0]
    assert torch.equal(blank, torch.tensor([1.0, *BLANK]))
