import pytest
import torch

from backend.sampling.discretization import (
    BEYOND_ALL_NOISE,
    LAST_ALPHA,
    continuous,
    exponential_flow,
    scaled_linear,
    shifted_flow,
    sigma_max,
    sigma_min,
)
from tests.backend.sampling.shared import shared_json

RANGES = {
    "sd15": scaled_linear,
    "sd15_v_zsnr": lambda: scaled_linear(zero_terminal=True),
    "sd3": lambda: shifted_flow(3.0),
    "sd3_shift5": lambda: shifted_flow(5.0),
    "wan": lambda: shifted_flow(8.0),
    "flux": exponential_flow,
    "qwen_image": exponential_flow,
    # Flux's shift at 1024 x 768: linear in the tokens, 0.5 at 256 and 1.15 at 4096
    "flux_1024x768": lambda: exponential_flow(0.5 + (1.15 - 0.5) * (1024 * 768 / 256 - 256) / (4096 - 256)),
}


def test_stable_diffusions_range_has_its_known_ends():
    assert sigma_min(scaled_linear()) == pytest.approx(0.0291671585, rel=1e-7)
    assert sigma_max(scaled_linear()) == pytest.approx(14.6146412, rel=1e-7)


def test_a_zero_terminal_range_ends_without_signal_and_starts_as_before():
    plain, stretched = scaled_linear(), scaled_linear(zero_terminal=True)
    assert sigma_min(stretched) == sigma_min(plain)
    assert 1 / (1 + sigma_max(stretched) ** 2) == pytest.approx(LAST_ALPHA, rel=1e-5)


def test_sigma_is_the_inverse_of_timestep_on_a_table():
    noise_range = scaled_linear()
    assert torch.allclose(noise_range.sigma(noise_range.timestep(noise_range.sigmas)), noise_range.sigmas)
    assert noise_range.sigma(torch.tensor([-5.0, 5000.0])).tolist() == [
        pytest.approx(sigma_min(noise_range)),
        pytest.approx(sigma_max(noise_range)),
    ]


def test_a_flow_is_shifted_towards_noise_and_keeps_its_top():
    plain, shifted, exponential = shifted_flow(1.0), shifted_flow(3.0), exponential_flow()
    assert float(plain.sigma(torch.tensor(500.0))) == 0.5
    assert float(shifted.sigma(torch.tensor(500.0))) == pytest.approx(0.75)
    assert float(exponential.sigma(torch.tensor(0.5))) == pytest.approx(0.7595109, rel=1e-6)
    assert sigma_max(plain) == sigma_max(shifted) == sigma_max(exponential) == 1.0
    assert float(shifted.timestep(torch.tensor(0.75))) == 750.0


def test_a_timestep_of_a_table_is_the_nearest_by_log_sigma():
    noise_range = scaled_linear()
    between = (noise_range.log_sigmas[500] * 0.6 + noise_range.log_sigmas[501] * 0.4).exp()
    assert noise_range.timestep(torch.stack([between, noise_range.sigmas[3]])).tolist() == [500, 3]


def test_continuous_ranges_invert_their_time():
    for angle in (False, True):
        noise_range = continuous(0.002, 120.0, angle)
        sigmas = torch.tensor([0.01, 1.0, 50.0])
        assert torch.allclose(noise_range.sigma(noise_range.timestep(sigmas)), sigmas, rtol=1e-4)
        assert noise_range.percent_to_sigma(0.5) == pytest.approx((0.002 * 120.0) ** 0.5, rel=1e-5)


def test_percentages_reach_beyond_both_ends():
    assert (
        scaled_linear().percent_to_sigma(0.0)
        == continuous(0.1, 1.0).percent_to_sigma(0.0)
        == BEYOND_ALL_NOISE
    )
    assert shifted_flow(3.0).percent_to_sigma(0.0) == exponential_flow().percent_to_sigma(-1.0) == 1.0
    for noise_range in (scaled_linear(), continuous(0.1, 1.0), shifted_flow(3.0), exponential_flow()):
        assert noise_range.percent_to_sigma(1.0) == 0.0


@pytest.mark.parity
@pytest.mark.parametrize("model", RANGES)
def test_ranges_equal_the_recorded_ones(model):
    facts, noise_range = shared_json("parity/facts/sigmas.json")[model], RANGES[model]()
    assert (sigma_min(noise_range), sigma_max(noise_range)) == (facts["sigma_min"], facts["sigma_max"])
    for sigma, timestep in facts["timestep_of_sigma"]:
        assert float(noise_range.timestep(torch.tensor(sigma))) == timestep
    for percent, sigma in facts["percent_to_sigma"]:
        assert noise_range.percent_to_sigma(percent) == pytest.approx(sigma, rel=1e-9)
