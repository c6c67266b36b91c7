import pytest
import torch

from backend.types import Latent
from tests.nodes.build import run

LATENT = Latent(torch.randn(2, 4, 20, 20, generator=torch.Generator().manual_seed(0)), batch_index=(3, 4))


def test_tone_mapping_shortens_long_vectors_and_keeps_their_directions():
    operation = run("LatentOperationTonemapReinhard", multiplier=0.5)
    toned = run("LatentApplyOperation", samples=LATENT, operation=operation)
    before, after = LATENT.samples.norm(dim=1), toned.samples.norm(dim=1)
    assert (after < before).all()
    assert torch.allclose(toned.samples / after[:, None], LATENT.samples / before[:, None], atol=1e-5)
    assert toned.batch_index == (3, 4)


def test_sharpening_leaves_an_even_latent_as_it_is():
    even = Latent(torch.full((1, 4, 20, 20), 0.7))
    operation = run("LatentOperationSharpen", sharpen_radius=3, sigma=1.0, alpha=1.0)
    sharp = run("LatentApplyOperation", samples=even, operation=operation)
    assert torch.allclose(sharp.samples, even.samples, atol=1e-5)
    uneven = run("LatentApplyOperation", samples=LATENT, operation=operation)
    assert not torch.equal(uneven.samples, LATENT.samples)


def test_a_radius_that_does_not_fit_is_named():
    operation = run("LatentOperationSharpen", sharpen_radius=9)
    with pytest.raises(ValueError, match="sharpen_radius 9 is too large for a latent of 8 x 8"):
        run("LatentApplyOperation", samples=Latent(torch.randn(1, 4, 8, 8)), operation=operation)
