import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backend.sampling.noise import (
    SEEDS,
    ancestral_noise,
    brownian_noise,
    churn_noise,
    initial_noise,
    masked_noise,
)
from backend.sampling.sigmas import karras
from tests.backend.sampling.shared import shared_file

ZERO = torch.tensor(0.0)


def test_noise_of_a_seed_is_as_recorded():
    assert initial_noise((1, 1, 1, 4), 0).flatten().tolist() == pytest.approx(
        [1.54099607, -0.29342890, -2.17878938, 0.56843126], rel=1e-6
    )


@given(st.integers(0, SEEDS - 1), st.lists(st.integers(0, 6), min_size=1, max_size=5))
def test_a_row_with_an_index_gets_that_indexs_noise(seed, indices):
    single = [initial_noise((1, 2, 3, 3), seed, [i]) for i in indices]
    assert torch.equal(initial_noise((len(indices), 2, 3, 3), seed, indices), torch.cat(single))


def test_the_first_index_draws_what_a_batch_of_one_draws():
    assert torch.equal(initial_noise((1, 4, 8, 8), 5, [0]), initial_noise((1, 4, 8, 8), 5))


def test_noise_leaves_torchs_own_generator_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    x = torch.zeros(1, 4, 4, 4)
    initial_noise(x.shape, 3)
    masked_noise(x.shape, SEEDS - 1)
    ancestral_noise(x, 3)(ZERO, ZERO)
    churn_noise(x, 3)(ZERO, ZERO)
    assert torch.equal(torch.get_rng_state(), before)


def test_step_noise_starts_from_the_initial_noise_and_churn_follows_it():
    x = torch.zeros(2, 4, 8, 8)
    step, churn = ancestral_noise(x, 9), churn_noise(x, 9)
    assert torch.equal(step(ZERO, ZERO), initial_noise(x.shape, 9))
    assert torch.equal(step(ZERO, ZERO), churn(ZERO, ZERO))


def test_masked_noise_is_that_of_the_next_seed():
    assert torch.equal(masked_noise((1, 4, 8, 8), 4), initial_noise((1, 4, 8, 8), 5))
    assert torch.equal(masked_noise((1, 4, 8, 8), SEEDS - 1), initial_noise((1, 4, 8, 8), 0))


def test_brownian_increments_add_up_and_have_unit_variance():
    x, sigmas = torch.zeros(1, 4, 32, 32), karras(5, 0.1, 10.0)
    noise = brownian_noise(x, sigmas, 3)
    a, b, c = sigmas[0], sigmas[1], sigmas[2]
    whole, first, second = (
        noise(a, c) * (a - c).sqrt(),
        noise(a, b) * (a - b).sqrt(),
        noise(b, c) * (b - c).sqrt(),
    )
    assert torch.allclose(whole, first + second, atol=1e-4)
    assert float(first.std() / (a - b).sqrt()) == pytest.approx(1.0, abs=0.05)
    assert torch.allclose(noise(c, a), -noise(a, c))


def test_brownian_noise_depends_on_the_seed_alone():
    x, sigmas = torch.zeros(1, 4, 8, 8), karras(5, 0.1, 10.0)
    first = brownian_noise(x, sigmas, 3)(sigmas[0], sigmas[1])
    assert torch.equal(first, brownian_noise(x + 5, sigmas, 3, on_cpu=False)(sigmas[0], sigmas[1]))
    assert not torch.equal(first, brownian_noise(x, sigmas, 4)(sigmas[0], sigmas[1]))


def test_a_schedule_of_one_step_needs_no_brownian_noise():
    noise = brownian_noise(torch.zeros(1, 2), torch.tensor([5.0, 0.0]), 1)
    assert torch.equal(noise(torch.tensor(5.0), ZERO), torch.zeros(1, 2))


@pytest.mark.parity
def test_noise_equals_the_recorded_bit_for_bit():
    from safetensors.torch import load_file

    recorded = load_file(shared_file("parity/facts/noise.safetensors"))
    assert recorded
    for name, wanted in recorded.items():
        seed, kind = name.removeprefix("seed").split(".")
        indices = [int(i) for i in kind.removeprefix("inds").split("_")] if kind.startswith("inds") else None
        assert torch.equal(initial_noise(wanted.shape, int(seed), indices), wanted), name
