import pytest
import torch

from backend.sampling.adams import Interval, Orders
from backend.sampling.sde import log_snr
from tests.backend.sampling.analytic import a_prediction, a_run

SIGMAS = torch.tensor([10.0, 5.0, 2.0, 1.0, 0.4])
TIMES = log_snr(SIGMAS, a_prediction("eps"))


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_weights_of_a_constant_estimate_are_those_of_one_exponential_step(tau, order):
    interval = Interval(SIGMAS, TIMES, 3, tau, simple=False)
    weights = interval.weights(TIMES[4 - order : 4], corrects=False)
    whole = -torch.expm1(-(1 + tau**2) * interval.h)
    assert float(weights.sum()) == pytest.approx(float(whole), rel=1e-3)


@pytest.mark.parametrize("corrects", [True, False])
def test_the_simple_weights_carry_a_constant_equally_far(corrects):
    nodes = TIMES[3:5] if corrects else TIMES[2:4]
    simple, exact = (
        Interval(SIGMAS, TIMES, 3, 0.5, simple=s).weights(nodes, corrects) for s in (True, False)
    )
    assert float(simple.sum()) == pytest.approx(float(exact.sum()), rel=1e-3)
    assert not torch.allclose(simple, exact, rtol=1e-2)


def test_a_step_keeps_the_noise_at_the_next_sigma():
    interval = Interval(SIGMAS, TIMES, 1, 0.7, simple=False)
    assert float((interval.keep * 5) ** 2 + interval.noise**2) == pytest.approx(4.0, rel=1e-4)


def test_orders_grow_with_history_and_shrink_towards_zero():
    orders = Orders(3, 4, sigmas=7, to_zero=True)
    assert [orders.predictor(step, min(step + 1, 4)) for step in range(5)] == [1, 2, 3, 2, 1]
    assert [orders.corrector(step, min(step + 1, 4)) for step in range(6)] == [0, 2, 3, 3, 2, 1]
    assert Orders(3, 4, sigmas=7, to_zero=False).predictor(5, 4) == 3


def test_the_second_evaluation_doubles_all_but_the_first():
    once, twice = a_run("sa_solver"), a_run("sa_solver_pece")
    assert len(twice.requests) == 2 * len(once.requests) - 1
    assert twice.steps == once.steps
    same = a_run("sa_solver", options=(("use_pece", True),))
    assert torch.equal(same.result, twice.result)


def test_noise_stays_within_its_stretch_of_the_range():
    none = (("sde_start_percent", 0.5), ("sde_end_percent", 0.5))
    x = torch.ones(1, 1, 2, 3) * 9
    first, second = (a_run("sa_solver", x=x, seed=seed, options=none).result for seed in (1, 2))
    assert torch.equal(first, second)
