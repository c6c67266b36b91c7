import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backend.sampling.ancestral import ancestral_step, flow_step
from tests.backend.sampling.analytic import a_run

SIGMAS = (
    st.tuples(st.floats(0.02, 0.98), st.floats(0.02, 0.98)).map(sorted).filter(lambda s: s[1] - s[0] > 0.01)
)


@given(SIGMAS, st.floats(0.0, 1.0))
def test_what_a_step_takes_away_its_noise_gives_back(sigmas, eta):
    sigma_next, sigma = (torch.tensor(s) for s in sigmas)
    split = ancestral_step(sigma, sigma_next, eta)
    assert 0 <= split.down <= sigma_next
    assert float(split.down**2 + split.up**2) == pytest.approx(float(sigma_next**2), rel=1e-4)
    assert split.keep == 1


@given(SIGMAS, st.floats(0.0, 1.0))
def test_a_flows_step_comes_out_at_the_next_sigmas_shares(sigmas, eta):
    sigma_next, sigma = (torch.tensor(s) for s in sigmas)
    split = flow_step(sigma, sigma_next, eta)
    signal, noise = split.keep * (1 - split.down), ((split.keep * split.down) ** 2 + split.up**2).sqrt()
    assert float(signal) == pytest.approx(1 - float(sigma_next), rel=1e-4)
    assert float(noise) == pytest.approx(float(sigma_next), rel=1e-3)


@pytest.mark.parametrize("kind", ["eps", "flow"])
@pytest.mark.parametrize(("name", "plain"), [("euler_ancestral", "euler"), ("dpm_2_ancestral", "dpm_2")])
def test_without_fresh_noise_an_ancestral_sampler_is_its_plain_one(name, plain, kind):
    quiet = a_run(name, kind, options=(("eta", 0.0),)).result
    assert torch.allclose(quiet, a_run(plain, kind).result, rtol=1e-4, atol=1e-5)


def test_a_rising_schedule_gives_numbers():
    rising = torch.tensor([0.5, 1.0, 2.0])
    for name in ("euler_ancestral", "dpm_2_ancestral", "dpmpp_2s_ancestral"):
        assert a_run(name, sigmas=rising, x=torch.ones(1, 1, 2, 3)).result.isfinite().all()


def test_lcm_noises_its_estimate_to_the_next_sigma():
    first, second = a_run("lcm", sigmas=torch.tensor([9.0, 2.0, 0.0]), x=torch.zeros(1, 4, 64, 64)).requests
    added = second.x - 0.1 - 0.3 * torch.tanh(torch.tensor(0.2)) * 0.9  # the estimate of an all-zero latent
    assert float(added.std()) == pytest.approx(2.0, rel=0.02)
    assert first.step == 0


@pytest.mark.parametrize(("asked", "sizes"), [(-1, [4, 5, 7, 8, 8]), (1, [4, 8, 8, 8, 8]), (0, [4] * 5)])
def test_lcm_upscale_grows_the_latent_with_its_first_steps(asked, sizes):
    options = (("total_upscale", 2.0), ("upscale_steps", asked), ("upscale_method", "bilinear"))
    sigmas = torch.tensor([9.0, 6.0, 4.0, 2.0, 1.0, 0.0])
    ran = a_run("lcm_upscale", sigmas=sigmas, x=torch.ones(1, 4, 4, 6), options=options)
    assert [request.x.shape[2] for request in ran.requests] == sizes
    assert ran.result.shape == (1, 4, sizes[-1], sizes[-1] * 3 // 2)


def test_lcm_upscale_goes_on_with_the_sequence_of_the_initial_noise():
    x = torch.zeros(1, 4, 2, 2)
    generator = torch.Generator().manual_seed(7)
    torch.randn(x.shape, generator=generator)
    options = (("total_upscale", 1.0),)
    ran = a_run("lcm_upscale", sigmas=torch.tensor([9.0, 2.0, 0.0]), x=x, options=options)
    estimate = 0.1 + 0.3 * torch.tanh(torch.tensor(0.2)) * 0.9
    assert torch.allclose(ran.requests[1].x - estimate, 2 * torch.randn(x.shape, generator=generator))
