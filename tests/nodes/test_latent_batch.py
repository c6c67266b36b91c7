import torch

from backend.types import Latent
from tests.nodes.build import run


def rows(count: int, size: int = 4, **more) -> Latent:
    return Latent(torch.randn(count, 4, size, size), **more)


def test_batches_are_cut_anew_and_rows_keep_their_index():
    given = [rows(2), rows(1, batch_index=(9,)), rows(3)]
    made = run("RebatchLatents", latents=given, batch_size=[2])
    assert [len(batch.samples) for batch in made] == [2, 2, 2]
    assert [batch.batch_index for batch in made] == [(0, 1), (9, 3), (4, 5)]
    assert torch.equal(made[1].samples[0], given[1].samples[0])
    assert all(batch.noise_mask is None for batch in made)


def test_a_new_size_begins_a_new_batch():
    made = run("RebatchLatents", latents=[rows(1), rows(2, 8), rows(1, 8)], batch_size=[4])
    assert [tuple(batch.samples.shape[::3]) for batch in made] == [(1, 4), (3, 8)]


def test_rows_without_a_mask_are_whole_beside_rows_that_have_one():
    mask = torch.zeros(1, 1, 32, 32)
    (batch,) = run("RebatchLatents", latents=[rows(1), rows(2, noise_mask=mask)], batch_size=[8])
    assert batch.noise_mask.mean(dim=(1, 2, 3)).tolist() == [1.0, 0.0, 0.0]
