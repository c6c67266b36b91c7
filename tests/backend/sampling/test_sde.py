import pytest
import torch

from backend.sampling.sde import finite_start, leg, log_snr, sigma_of
from tests.backend.sampling.analytic import a_prediction, a_run

QUIET = (("eta", 0.0),)


@pytest.mark.parametrize("kind", ["eps", "flow"])
def test_sigma_and_log_snr_are_inverses(kind):
    sigmas, prediction = torch.tensor([0.05, 0.5, 0.95]), a_prediction(kind)
    assert torch.allclose(sigma_of(log_snr(sigmas, prediction), prediction), sigmas)


def test_only_a_flow_that_starts_from_pure_noise_is_lowered():
    flow, diffusion = a_prediction("flow"), a_prediction("eps")
    pure, partial = torch.tensor([1.0, 0.5, 0.0]), torch.tensor([0.9, 0.5, 0.0])
    assert float(finite_start(pure, flow)[0]) == pytest.approx(flow.range.percent_to_sigma(1e-4))
    assert pure[0] == 1
    assert finite_start(partial, flow) is partial
    assert finite_start(pure, diffusion) is pure
    assert finite_start(pure[:1], flow) is not None


@pytest.mark.parametrize("kind", ["eps", "flow"])
def test_a_leg_keeps_the_noise_at_the_next_sigma(kind):
    sigma, sigma_next = torch.tensor(0.8), torch.tensor(0.3)
    for eta in (0.0, 0.5, 1.0):
        to = leg(sigma, sigma_next, a_prediction(kind), eta)
        assert float((to.keep * sigma) ** 2 + to.noise**2) == pytest.approx(0.09, rel=1e-4)


def test_without_noise_the_sde_samplers_are_the_odes():
    plain = a_run("dpmpp_2m").result
    assert torch.allclose(a_run("dpmpp_2m_sde", options=QUIET).result, plain, rtol=1e-4, atol=1e-4)
    first = a_run("dpmpp_sde", options=QUIET)
    assert torch.allclose(
        first.result, a_run("dpmpp_sde", options=QUIET, seed=99, x=first.requests[0].x).result
    )


def test_the_strength_of_the_noise_is_an_option():
    loud, quiet = a_run("dpmpp_3m_sde").result, a_run("dpmpp_3m_sde", options=(("s_noise", 0.0),)).result
    assert not torch.allclose(loud, quiet, atol=1e-2)
