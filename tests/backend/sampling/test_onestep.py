import pytest
import torch

from backend.sampling.noise import churn_noise
from tests.backend.sampling.analytic import SEED, a_run, denoise, gaussian

X = torch.tensor([[[[14.0, -3.0, 0.5]]]])


@pytest.mark.parametrize("name", ["euler", "heun", "heunpp2", "dpm_2"])
def test_churn_raises_sigma_by_fresh_noise_of_the_seed(name):
    options = (("s_churn", 2.0), ("s_noise", 0.5))
    still, churned = a_run(name, x=X), a_run(name, x=X, options=options)
    first, raised = still.requests[0], churned.requests[0]
    gamma = 2.0 / 6
    assert float(raised.sigma) == pytest.approx(float(first.sigma) * (1 + gamma), rel=1e-5)
    noise = churn_noise(X, SEED)(first.sigma, raised.sigma) * 0.5
    assert torch.allclose(raised.x, X + noise * (raised.sigma**2 - first.sigma**2).sqrt(), rtol=1e-5)
    assert torch.equal(churned.result, a_run(name, x=X, options=options).result)


def test_churn_keeps_to_its_span_and_its_most():
    requests = a_run("euler", x=X, options=(("s_churn", 100.0), ("s_tmin", 1.0), ("s_tmax", 10.0))).requests
    raised = [float(b.sigma / a.sigma) for a, b in zip(a_run("euler", x=X).requests, requests, strict=True)]
    inside = [1.0 <= float(a.sigma) <= 10.0 for a in a_run("euler", x=X).requests]
    assert any(inside)
    assert raised == [pytest.approx(2**0.5 if i else 1.0, rel=1e-5) for i in inside]


def test_a_second_order_step_beats_eulers():
    exact = X / (1 + 14.6146412**2) ** 0.5
    errors = {
        n: float((a_run(n, x=X, steps=24, model=gaussian).result - exact).norm())
        for n in ("euler", "heun", "dpm_2")
    }
    assert errors["heun"] < errors["euler"] / 3
    assert errors["dpm_2"] < errors["euler"] / 3


def test_a_step_of_euler_goes_along_the_line_to_the_estimate():
    ran = a_run("euler", x=X, sigmas=torch.tensor([4.0, 1.0]))
    estimate = denoise(X, torch.tensor(4.0))
    assert torch.allclose(ran.result, estimate + (X - estimate) / 4, atol=1e-5)
