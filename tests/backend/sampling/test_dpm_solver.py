import pytest
import torch

from backend.errors import UnsupportedOption
from backend.sampling.dpm_solver import Pace
from tests.backend.sampling.analytic import a_run, gaussian

X = torch.tensor([[[[14.0, -3.0, 0.5]]]])


@pytest.mark.parametrize("steps", range(1, 13))
def test_dpm_fast_spends_as_many_evaluations_as_there_are_steps(steps):
    assert len(a_run("dpm_fast", x=X, steps=steps).requests) == steps


def test_adaptive_steps_shorten_as_the_tolerance_does():
    coarse, fine = (a_run("dpm_adaptive", x=X, options=(("rtol", r), ("atol", r / 5))) for r in (0.05, 0.005))
    assert len(fine.requests) > len(coarse.requests)
    assert coarse.steps == list(range(len(coarse.steps)))


@pytest.mark.parametrize("order", [2, 3])
def test_adaptive_steps_end_near_the_exact_solution(order):
    ran = a_run(
        "dpm_adaptive", x=X, model=gaussian, options=(("order", order), ("rtol", 0.0005), ("atol", 0.0001))
    )
    least = 0.0291671  # where the schedule's last sigma above 0 lies
    exact = X * ((1 + least**2) / (1 + 14.6146412**2)) ** 0.5
    assert float((ran.result - exact).norm() / exact.norm()) < 0.01


def test_a_step_of_too_large_an_error_is_tried_again_shorter():
    pace = Pace(0.5, (1 / 3, 0.0, 0.0), 0.81)
    shorter, stands = pace.after(5.0)
    assert not stands
    assert shorter.h < 0.5
    longer, stands = pace.after(0.01)
    assert stands
    assert longer.h > 0.5


def test_noise_cannot_be_added_while_sigmas_rise():
    with pytest.raises(UnsupportedOption, match=r"eta=0.5 is not supported. Use 0 where sigmas rise"):
        a_run("dpm_adaptive", x=X, sigmas=torch.tensor([1.0, 5.0]), options=(("eta", 0.5),))


def test_rising_sigmas_are_followed_without_noise():
    up = a_run("dpm_adaptive", x=X, sigmas=torch.tensor([1.0, 5.0]), model=gaussian).result
    assert torch.allclose(up, X * (26 / 2) ** 0.5, rtol=0.03)


@pytest.mark.parametrize("name", ["dpm_fast", "dpm_adaptive"])
def test_sigmas_that_have_no_logarithm_are_refused(name):
    with pytest.raises(UnsupportedOption, match="Use sigmas above 0, but for the last"):
        a_run(name, x=X, sigmas=torch.tensor([0.0, 1.0]))
