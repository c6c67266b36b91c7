import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from backend.models.tiling import tiled, tiled_frames


def doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0)


@settings(max_examples=50)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(4, 16), st.integers(4, 16), st.integers(0, 3))
def test_a_function_that_sees_one_pixel_gives_the_same_in_tiles(
    height: int, width: int, tile_height: int, tile_width: int, overlap: int
):
    image = torch.arange(2.0 * height * width).reshape(2, 1, height, width)
    got = tiled(image, doubled, (tile_height, tile_width), overlap, 2)
    assert torch.allclose(got, doubled(image), rtol=1e-5, atol=1e-4)


def test_an_image_that_fits_one_tile_is_done_at_once():
    seen = []
    tiled(torch.zeros(1, 3, 8, 8), lambda x: seen.append(x.shape) or x, (8, 8), 2, 1)
    assert seen == [(1, 3, 8, 8)]


def test_a_seam_fades_over_the_overlap():
    """The left tile gives 0 and the right 1: between them the result rises evenly."""
    values = iter((0.0, 1.0))
    got = tiled(torch.zeros(1, 1, 1, 8), lambda x: torch.full_like(x, next(values)), (1, 5), 2, 1)
    assert got[0, 0, 0].tolist() == pytest.approx([0, 0, 0, 1 / 3, 2 / 3, 1, 1, 1])


def test_an_overlap_as_large_as_a_tile_is_refused():
    with pytest.raises(ValueError, match="overlap of 4 does not fit tiles of 4"):
        tiled(torch.zeros(1, 1, 16, 16), lambda x: x, (4, 8), 4, 1)


def test_tiles_over_frames_overlap_in_space_and_time():
    # Copying is the same in tiles; the first frame of each tile makes one picture, every other one four.
    def decode(part):
        larger = part.repeat_interleave(2, -1).repeat_interleave(2, -2).repeat_interleave(4, 2)
        return larger[:, :, 3:]

    still = torch.rand(2, 3, 1, 9, 7).expand(2, 3, 6, 9, 7)
    sizes = []

    def seen(part):
        sizes.append(tuple(part.shape[2:]))
        return decode(part)

    whole = tiled_frames(still, decode, (6, 9, 9), (1, 2, 2), (4, 2))
    assert torch.equal(whole, decode(still))
    assert torch.allclose(tiled_frames(still, seen, (3, 4, 4), (1, 2, 2), (4, 2)), whole, atol=1e-6)
    assert set(sizes) > {(3, 4, 4), (2, 3, 3)}
