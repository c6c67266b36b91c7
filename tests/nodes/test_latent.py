import pytest
import torch

from backend.types import Latent
from tests.nodes.build import run


def latent(rows: int = 2, **more: object) -> Latent:
    return Latent(torch.arange(rows * 4 * 8 * 12, dtype=torch.float32).reshape(rows, 4, 8, 12), **more)


def test_an_empty_latent_is_an_eighth_of_the_pixels():
    assert run("EmptyLatentImage", width=100, height=64, batch_size=3).samples.shape == (3, 4, 8, 12)


def test_a_noise_mask_has_a_channel_and_the_input_stays_as_it_was():
    given = latent()
    masked = run("SetLatentNoiseMask", samples=given, mask=torch.ones(64, 96))
    assert masked.noise_mask.shape == (1, 1, 64, 96)
    assert given.noise_mask is None


@pytest.mark.parametrize(
    ("width", "height", "shape"), [(192, 128, (16, 24)), (0, 128, (16, 24)), (48, 0, (8, 8)), (0, 0, (8, 12))]
)
def test_upscaling_takes_pixels_and_fills_in_a_missing_side(width, height, shape):
    sized = run(
        "LatentUpscale",
        samples=latent(),
        upscale_method="bilinear",
        width=width,
        height=height,
        crop="disabled",
    )
    assert sized.samples.shape[-2:] == shape


@pytest.mark.parametrize("method", ["nearest-exact", "bilinear", "area", "bicubic", "bislerp"])
def test_upscaling_by_a_factor_keeps_mask_and_indexes(method):
    given = latent(noise_mask=torch.ones(1, 1, 8, 8), batch_index=(3, 5))
    sized = run("LatentUpscaleBy", samples=given, upscale_method=method, scale_by=1.5)
    assert sized.samples.shape == (2, 4, 12, 18)
    assert sized.batch_index == (3, 5)
    assert sized.noise_mask is given.noise_mask


def test_rows_cut_from_a_batch_remember_where_they_were():
    cut = run("LatentFromBatch", samples=latent(5), batch_index=3, length=9)
    assert cut.batch_index == (3, 4)
    assert torch.equal(cut.samples, latent(5).samples[3:5])
    assert run("LatentFromBatch", samples=cut, batch_index=1, length=1).batch_index == (4,)
    assert run("LatentFromBatch", samples=latent(2), batch_index=63, length=1).batch_index == (1,)


def test_masks_are_cut_with_their_rows():
    mask = torch.arange(2.0).reshape(2, 1, 1, 1)
    cut = run("LatentFromBatch", samples=latent(4, noise_mask=mask), batch_index=1, length=2)
    assert cut.noise_mask.flatten().tolist() == [1.0, 0.0]
    one = torch.ones(1, 1, 8, 8)
    assert (
        run("LatentFromBatch", samples=latent(4, noise_mask=one), batch_index=1, length=2).noise_mask is one
    )


def test_repeating_counts_the_indexes_on():
    repeated = run("RepeatLatentBatch", samples=latent(2, batch_index=(4, 6)), amount=3)
    assert repeated.samples.shape[0] == 6
    assert repeated.batch_index == (4, 6, 7, 9, 10, 12)
    assert run("RepeatLatentBatch", samples=latent(2), amount=2).batch_index is None
