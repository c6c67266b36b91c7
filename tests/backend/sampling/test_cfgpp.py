import pytest
import torch

from backend.sampling.samplers import make_sampler
from tests.backend.sampling.analytic import a_prediction, denoise, drive

SIGMAS = torch.tensor([14.6, 6.0, 2.0, 0.7, 0.0])
X = torch.linspace(-14, 14, 6).reshape(1, 1, 2, 3)


@pytest.mark.parametrize(
    "name",
    ["euler", "euler_ancestral", "res_multistep", "res_multistep_ancestral", "gradient_estimation"],
)
def test_with_one_model_for_both_estimates_it_is_the_plain_sampler(name):
    """The guided and the unconditional slope are then one."""
    runs = [
        drive(make_sampler(n, X, SIGMAS, prediction=a_prediction("eps"), seed=3), denoise, denoise)
        for n in (name, f"{name}_cfg_pp")
    ]
    assert torch.allclose(runs[0].result, runs[1].result, rtol=1e-4, atol=1e-4)


def test_a_step_lands_on_the_guided_estimate_and_leaves_along_the_other_slope():
    guided, uncond = torch.full_like(X, 2.0), torch.full_like(X, -1.0)
    sampler = make_sampler(
        "euler_cfg_pp", X, torch.tensor([4.0, 1.0]), prediction=a_prediction("eps"), seed=3
    )
    result = drive(sampler, lambda x, s: guided, lambda x, s: uncond).result
    assert torch.allclose(result, guided + (X - uncond) / 4)


def test_the_alternative_euler_leaves_along_twice_the_guided_estimate_less_the_other():
    guided, uncond = torch.full_like(X, 2.0), torch.full_like(X, -1.0)
    sampler = make_sampler(
        "euler_cfg_pp_alternative", X, torch.tensor([4.0, 1.0]), prediction=a_prediction("eps"), seed=3
    )
    result = drive(sampler, lambda x, s: guided, lambda x, s: uncond).result
    assert torch.allclose(result, X + (X - 2 * guided + uncond) / 4 * -3)
