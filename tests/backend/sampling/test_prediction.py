import pytest
import torch

from backend.sampling.discretization import continuous, scaled_linear, shifted_flow
from backend.sampling.prediction import Prediction, per_row

SD, FLOW = scaled_linear(), shifted_flow(3.0)
X = torch.arange(12.0).reshape(2, 1, 2, 3) / 7 - 0.5
NOISE = X.flip(0).sin()


def noisy(prediction: Prediction, sigma: torch.Tensor) -> torch.Tensor:
    return prediction.noise_scaling(sigma, NOISE, X)


def outputs(kind: str, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """What a perfect network would answer for the latent X with NOISE."""
    alpha = 1 / (1 + sigma**2).sqrt()
    return {
        "eps": NOISE,
        "v": alpha * NOISE - sigma * alpha * X,
        "edm": (X - x * alpha**2) / (sigma * alpha),
        "x0": X,
        "flow": NOISE - X,
        "scaled_flow": NOISE - X,
    }[kind]


@pytest.mark.parametrize("kind", ["eps", "v", "edm", "x0", "flow", "scaled_flow"])
def test_a_perfect_output_gives_the_clean_latent(kind):
    prediction = Prediction(kind, FLOW if kind == "flow" else SD)
    for sigma in (torch.tensor(0.1), torch.tensor(0.9)):
        x = noisy(prediction, sigma)
        assert torch.allclose(prediction.denoised(x, outputs(kind, x, sigma), sigma), X, atol=1e-5)


@pytest.mark.parametrize("kind", ["eps", "v", "edm", "x0", "flow", "scaled_flow"])
def test_rows_with_their_own_sigma_are_treated_as_alone(kind):
    prediction = Prediction(kind, FLOW if kind == "flow" else SD)
    sigma = torch.tensor([0.2, 0.7])
    together = (
        prediction.denoised(X, NOISE, sigma),
        prediction.scale_input(X, sigma),
        noisy(prediction, sigma),
    )
    for row in range(2):
        x, noise = X[row : row + 1], NOISE[row : row + 1]
        alone = (
            prediction.denoised(x, noise, sigma[row]),
            prediction.scale_input(x, sigma[row]),
            prediction.noise_scaling(sigma[row], noise, x),
        )
        assert all(torch.equal(a[row : row + 1], b) for a, b in zip(together, alone, strict=True))


def test_diffusion_input_has_unit_variance_and_flows_is_as_it_is():
    sigma = torch.tensor(3.0)
    assert torch.allclose(Prediction("eps", SD).scale_input(X, sigma) * 10**0.5, X)
    assert Prediction("flow", FLOW).scale_input(X, sigma) is X


def test_at_the_ranges_end_a_diffusion_run_starts_from_all_of_its_variance():
    prediction, sigma = Prediction("eps", SD), torch.tensor(3.0)
    assert torch.allclose(prediction.noise_scaling(sigma, NOISE, X, full=True), X + NOISE * 10**0.5)
    assert prediction.is_full(14.61464)
    assert prediction.is_full(20.0)
    assert not prediction.is_full(14.6)


def test_a_flow_that_stops_early_is_scaled_back():
    flow, sigma = Prediction("flow", FLOW), torch.tensor(0.25)
    mixed = flow.noise_scaling(sigma, torch.zeros_like(X), X)
    assert torch.allclose(flow.inverse_noise_scaling(sigma, mixed), X)
    assert Prediction("eps", SD).inverse_noise_scaling(sigma, X) is X


def test_edm_scales_by_the_deviation_of_its_data():
    prediction, sigma = Prediction("edm", continuous(0.002, 80.0), sigma_data=0.5), torch.tensor(2.0)
    assert torch.allclose(prediction.scale_input(X, sigma), X / (4 + 0.25) ** 0.5)
    assert torch.allclose(prediction.denoised(X, torch.zeros_like(X), sigma), X * 0.25 / 4.25)


def test_a_scalar_sigma_is_not_reshaped():
    assert per_row(torch.tensor(1.0), X).ndim == 0
    assert per_row(torch.ones(2), X).shape == (2, 1, 1, 1)
