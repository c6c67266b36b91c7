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
