"""The bias of a condition in the size of the picture."""

import torch

from backend.models.conditioning import Given
from backend.models.families.attention_bias import ATTENTION, bias_inputs
from backend.types import Cond


def bias_for(mask: torch.Tensor, places: tuple[int, int]) -> torch.Tensor:
    options = {"attention_mask": mask, "attention_mask_img_shape": places}
    given = Given(Cond(torch.zeros(1, 2, 4), options=options), "positive", torch.zeros(1, 16, 3, 8))
    return bias_inputs(given)[ATTENTION]


def test_a_style_that_is_left_out_stays_so_for_every_place():
    mask = torch.zeros(1, 3, 3)
    mask[0, [0, 2], 1] = -torch.inf
    bias = bias_for(mask, (1, 1))
    assert bias.shape == (1, 10, 10)  # two tokens, and 2 x 4 patches
    assert bool((bias[0, [0, *range(2, 10)], 1] == -torch.inf).all())
    assert not bias[0, 1].any()
    assert not bias[0, :, [0, *range(2, 10)]].any()


def test_between_the_places_of_a_coarser_picture_it_is_interpolated_both_ways():
    mask = torch.zeros(1, 3, 3)
    mask[0, 0, 1:], mask[0, 1:, 0] = torch.tensor([1.0, 3.0]), torch.tensor([1.0, 3.0])
    mask[0, 1:, 1:] = torch.tensor([[0.0, 2.0], [2.0, 4.0]])
    bias = bias_for(mask, (1, 2))
    row = torch.tensor([1.0, 1.5, 2.5, 3.0]).repeat(2)
    assert torch.equal(bias[0, 0, 1:], row)
    assert torch.equal(bias[0, 1:, 0], row)
    assert bias[0, 1:, 1:].diagonal().tolist() == [0.0, 1.0, 3.0, 4.0] * 2


def test_a_condition_without_one_has_none():
    given = Given(Cond(torch.zeros(1, 2, 4)), "positive", torch.zeros(1, 16, 2, 2))
    assert bias_inputs(given) == {}
