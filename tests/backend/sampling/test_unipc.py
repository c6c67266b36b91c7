import pytest
import torch

from backend.sampling.unipc import Move, point
from tests.backend.sampling.analytic import a_run, gaussian

X = torch.tensor([[[[14.0, -3.0, 0.5]]]])
LEVELS = [point(torch.tensor(s)) for s in (5.0, 2.0, 1.0, 0.5)]


def test_a_points_shares_make_unit_variance_and_its_time_the_log_snr():
    for level in LEVELS:
        assert float(level.signal**2 + level.noise**2) == pytest.approx(1.0, abs=1e-6)
        assert float(level.time) == pytest.approx(-float(level.sigma.log()), abs=1e-4)
        x = torch.ones(3)
        assert torch.allclose(level.data(x, torch.full((3,), 0.3)), torch.full((3,), 0.3), atol=1e-5)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_a_constant_estimate_is_met_exactly_by_predictor_and_corrector(order, fast):
    estimate = torch.tensor([0.3])
    past = [(level, estimate) for level in (LEVELS[2], LEVELS[1], LEVELS[0])]
    move = Move(past, LEVELS[3], order, fast)
    start = LEVELS[2].signal * estimate + LEVELS[2].noise * 0.7
    end = LEVELS[3].signal * estimate + LEVELS[3].noise * 0.7
    assert torch.allclose(move.predict(start), end, atol=1e-5)
    assert torch.allclose(move.correct(start, estimate), end, atol=1e-5)


@pytest.mark.parametrize("name", ["uni_pc", "uni_pc_bh2"])
def test_it_is_near_the_exact_solution_in_few_steps(name):
    ran, euler = a_run(name, x=X, steps=16, model=gaussian), a_run("euler", x=X, steps=16, model=gaussian)
    exact = X / (1 + 14.6146412**2) ** 0.5
    assert len(ran.requests) == 16
    assert float((ran.result - exact).norm()) < float((euler.result - exact).norm()) / 5
