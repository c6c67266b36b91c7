"""Where conditions count, and that averaging them keeps what they agree on."""

from math import inf

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.errors import UnsupportedOption
from backend.sampling.discretization import scaled_linear
from backend.sampling.region import EVERYWHERE, Box, Region, bounds, combined, region_of

NOISE = scaled_linear()


def region(dims=(16, 24), **options):
    return region_of(options, dims, NOISE)


def test_without_options_a_condition_counts_everywhere_and_always():
    assert region() == EVERYWHERE or region().plain
    assert (region().strength, region().begins, region().ends) == (1.0, inf, -inf)


def test_an_area_is_sizes_then_places_in_latent_pixels_or_parts_of_the_whole():
    assert region(area=(8, 10, 4, 6)).box == Box((8, 10), (4, 6))
    assert region(area=("percentage", 0.5, 0.25, 0.5, 0.0)).box == Box((8, 6), (8, 0))
    assert region(area=("percentage", 0.001, 1.0, 0.0, 0.0)).box == Box((1, 24), (0, 0))


def test_an_area_on_a_latent_with_frames_holds_for_all_of_them():
    assert region((5, 16, 24), area=(8, 10, 4, 6)).box == Box((5, 8, 10), (0, 4, 6))
    assert region((5, 16, 24), area=("percentage", 0.5, 0.5, 0.0, 0.5)).box == Box((5, 8, 12), (0, 0, 12))


def test_what_is_over_the_latents_end_is_left_out_and_an_area_beyond_it_refused():
    assert region(area=(64, 64, 8, 8)).box == Box((8, 16), (8, 8))
    with pytest.raises(
        UnsupportedOption, match=r"conditioning area='\[8, 8\] at \[16, 0\]'.*\[16, 24\] latent"
    ):
        region(area=(8, 8, 16, 0))


def test_an_area_fades_towards_its_neighbours_and_not_towards_the_edge():
    x = torch.zeros(1, 4, 32, 32)
    weight = region((32, 32), area=(32, 32, 0, 8), strength=0.5).weight(x)[0, 0]
    rows, columns = weight[:, -1], weight[0]
    assert torch.equal(rows, torch.full((32,), 0.5))
    assert torch.allclose(columns[:7], 0.5 * torch.arange(1, 8) / 6, atol=0.2)
    assert float(columns[0]) == pytest.approx(0.5 / 6)  # a quarter of 24 columns fade
    assert columns.diff().min() >= 0


def test_a_mask_is_fitted_to_the_latent_and_weighs_by_both_strengths():
    mask = torch.zeros(1, 32, 48)
    mask[:, :, 24:] = 1.0
    found = region(mask=mask, mask_strength=0.5, strength=0.8)
    weight = found.weight(torch.zeros(3, 4, 16, 24))
    assert weight.shape == (3, 1, 16, 24)
    assert torch.allclose(weight[1, 0, 0], torch.tensor([0.0] * 12 + [0.4] * 12))


def test_mask_bounds_compute_only_the_rectangle_around_the_mask():
    mask = torch.zeros(2, 16, 24)
    mask[0, 3:14, 5] = 0.2
    mask[1, 4, 15] = 1.0
    assert bounds(mask) == Box((11, 11), (3, 5))
    assert region(mask=mask, set_area_to_bounds=True).box == Box((11, 11), (3, 5))
    assert bounds(torch.zeros(1, 16, 24)) == Box((8, 8), (0, 0))


def test_a_range_of_time_holds_at_both_its_ends():
    found = region(start_percent=0.25, end_percent=0.75)
    first, last = (torch.tensor(NOISE.percent_to_sigma(p)) for p in (0.25, 0.75))
    assert found.counts(first)
    assert found.counts(last)
    assert not found.counts(first * 1.001)
    assert not found.counts(last * 0.999)


boxes = st.builds(
    lambda top, left, height, width: Box((height, width), (top, left)),
    st.integers(0, 8),
    st.integers(0, 8),
    st.integers(1, 8),
    st.integers(1, 8),
)
regions = st.builds(
    lambda box, masked, strength: Region(box, torch.full((1, 16, 16), 0.3) if masked else None, strength),
    st.none() | boxes,
    st.booleans(),
    st.floats(0.1, 3.0),
)


@settings(max_examples=60)
@given(st.lists(regions, min_size=1, max_size=4))
def test_where_all_estimates_agree_their_average_is_the_same_and_elsewhere_zero(found):
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    covered = torch.zeros(16, 16, dtype=torch.bool)
    for one in found:
        one.crop(covered[None, None]).fill_(True)
    result = combined(torch.zeros_like(x), [(one, one.crop(x)) for one in found])
    assert torch.allclose(result[..., covered], x[..., covered], atol=1e-5)
    assert not result[..., ~covered].any()


@settings(max_examples=30)
@given(st.lists(regions, min_size=2, max_size=4), st.randoms(use_true_random=False))
def test_the_order_of_conditions_does_not_matter(found, random):
    x = torch.zeros(1, 2, 16, 16)
    parts = [(one, one.crop(torch.full_like(x, float(i)))) for i, one in enumerate(found)]
    shuffled = list(parts)
    random.shuffle(shuffled)
    assert torch.allclose(combined(x, parts), combined(x, shuffled), atol=1e-5)


def test_no_condition_at_all_gives_zero():
    assert not combined(torch.ones(1, 4, 4, 4), []).any()
