"""ComfyUI's noise ranges and predictions, as packs mix them."""

import math

import pytest
import torch

from backend.sampling.discretization import continuous_flow
from backend.sampling.prediction import Prediction


@pytest.fixture
def sampling(comfy):
    import comfy.model_sampling

    return comfy.model_sampling


def test_a_table_of_steps_has_sigmas_by_time_and_percent(sampling):
    class Mixed(sampling.ModelSamplingDiscrete, sampling.V_PREDICTION): ...

    mixed = Mixed()
    assert mixed.num_timesteps == 1000
    assert float(mixed.sigma_max) == pytest.approx(14.6146, abs=1e-3)
    assert float(mixed.timestep(mixed.sigma(torch.tensor([500.0])))) == 500
    assert (mixed.percent_to_sigma(0.0), mixed.percent_to_sigma(1.0)) == (999999999.9, 0.0)
    mixed.set_sigmas(sampling.rescale_zero_terminal_snr_sigmas(mixed.sigmas))
    assert float(mixed.sigma_max) == pytest.approx(4518.76, abs=0.5)
    x = torch.ones(1, 4, 2, 2)
    assert torch.equal(mixed.calculate_denoised(torch.zeros(1), x, x), x)


def test_a_range_without_steps_is_told_its_ends(sampling):
    made = sampling.ModelSamplingContinuousEDM()
    made.set_parameters(0.01, 80.0, 0.5)
    assert (float(made.sigma_min), made.sigma_data) == (pytest.approx(0.01), 0.5)
    assert made.percent_to_sigma(0.5) == pytest.approx(math.sqrt(0.01 * 80.0), rel=1e-4)
    assert float(made.timestep(torch.tensor(math.e))) == pytest.approx(0.25)
    assert float(sampling.ModelSamplingContinuousV().timestep(torch.tensor(1.0))) == pytest.approx(0.5)


def test_cosmos_flow_is_the_one_that_workers_run(sampling):
    class Mixed(sampling.ModelSamplingCosmosRFlow, sampling.COSMOS_RFLOW): ...

    mixed = Mixed()
    mixed.set_parameters(0.002, 80.0, 1.0)
    ours, sigma = Prediction("scaled_flow", continuous_flow(0.002, 80.0)), torch.tensor([3.0])
    x, output = torch.arange(16.0).reshape(1, 4, 2, 2), torch.ones(1, 4, 2, 2)
    assert torch.equal(mixed.sigmas, ours.range.sigmas)
    assert torch.equal(mixed.timestep(sigma), ours.timestep(sigma))
    assert torch.equal(mixed.calculate_input(sigma, x), ours.scale_input(x, sigma))
    assert torch.equal(mixed.calculate_denoised(sigma, output, x), ours.denoised(x, output, sigma))
    noisy = mixed.noise_scaling(sigma, output, x, True)
    assert torch.equal(noisy, ours.noise_scaling(sigma, output, x, True))


def test_flows_are_shifted_anew(sampling):
    flow, flux = sampling.ModelSamplingDiscreteFlow(), sampling.ModelSamplingFlux()
    flow.set_parameters(shift=3.0)
    assert flow.percent_to_sigma(0.5) == pytest.approx(0.75)
    assert float(flow.sigma(torch.tensor(500.0))) == pytest.approx(sampling.time_snr_shift(3.0, 0.5))
    assert float(flow.timestep(flow.sigma_max)) == 1000
    assert flux.percent_to_sigma(0.5) == pytest.approx(sampling.flux_time_shift(1.15, 1.0, 0.5))
    assert len(flux.sigmas) == 10000
