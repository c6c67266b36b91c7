import pytest
import torch

from backend.types import Latent
from tests.nodes.build import run

A = Latent(torch.arange(2 * 4 * 8 * 8, dtype=torch.float32).reshape(2, 4, 8, 8), batch_index=(5, 6))
B = Latent(torch.ones(1, 4, 4, 4))


def test_arithmetic_brings_the_second_to_the_size_of_the_first():
    assert torch.allclose(run("LatentAdd", samples1=A, samples2=B).samples, A.samples + 1)
    assert torch.allclose(run("LatentSubtract", samples1=A, samples2=B).samples, A.samples - 1)
    assert torch.equal(run("LatentMultiply", samples=A, multiplier=-2.0).samples, A.samples * -2)
    assert torch.allclose(run("LatentBlend", samples1=A, samples2=A, blend_factor=0.3).samples, A.samples)


def test_interpolation_keeps_lengths_between_the_two():
    a, b = Latent(torch.randn(3, 4, 8, 8)), Latent(torch.randn(3, 4, 8, 8))
    mixed = run("LatentInterpolate", samples1=a, samples2=b, ratio=0.25).samples.norm(dim=1)
    assert torch.allclose(mixed, 0.25 * a.samples.norm(dim=1) + 0.75 * b.samples.norm(dim=1), atol=1e-5)


@pytest.mark.parametrize(("dim", "shape", "first"), [("x", (2, 4, 8, 12), 0), ("-x", (2, 4, 8, 12), 1)])
def test_joining_along_an_axis(dim, shape, first):
    narrow = Latent(torch.ones(1, 4, 8, 4))
    joined = run("LatentConcat", samples1=A, samples2=narrow, dim=dim).samples
    assert joined.shape == shape
    assert joined[0, 0, 0, 0] == first


@pytest.mark.parametrize(
    ("index", "amount", "columns"), [(2, 3, [2, 3, 4]), (99, 3, [7]), (-2, 9, [6, 7]), (-99, 2, [0, 1])]
)
def test_cutting_stays_inside(index, amount, columns):
    cut = run("LatentCut", samples=A, dim="x", index=index, amount=amount).samples
    assert torch.equal(cut, A.samples[..., columns])


def test_cropping_stays_inside():
    big = Latent(torch.zeros(1, 4, 16, 16))
    assert run("LatentCrop", samples=big, width=64, height=64, x=9999, y=0).samples.shape == (1, 4, 8, 8)
    assert run("LatentCrop", samples=B, width=64, height=64, x=64, y=64).samples.shape == (1, 4, 4, 4)


def test_batches_keep_the_indexes_of_their_rows():
    joined = run("LatentBatch", samples1=A, samples2=B)
    assert joined.samples.shape == (3, 4, 8, 8)
    assert joined.batch_index == (5, 6, 0)
    assert run("LatentBatchSeedBehavior", samples=A, seed_behavior="fixed").batch_index == (5, 5)
    assert run("LatentBatchSeedBehavior", samples=A, seed_behavior="random").batch_index is None


def test_turning_and_flipping():
    turned = run("LatentRotate", samples=A, rotation="180 degrees")
    flipped = run("LatentFlip", samples=A, flip_method="x-axis: vertically")
    assert torch.equal(
        run("LatentFlip", samples=flipped, flip_method="y-axis: horizontally").samples, turned.samples
    )


def test_sixteen_channels_for_sd3():
    assert run("EmptySD3LatentImage", width=64, height=32, batch_size=2).samples.shape == (2, 16, 4, 8)
