import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backend.sampling.multistep import (
    ADAMS_BASHFORTH,
    deis_weights,
    lagrange_integral,
    variable_weights,
    vp_times,
)
from tests.backend.sampling.analytic import a_run

NODES = st.lists(st.integers(-20, 20), min_size=1, max_size=5, unique=True)


@given(NODES, st.floats(-5, 5), st.floats(-5, 5))
def test_interpolation_integrates_polynomials_exactly(nodes, start, end):
    for power in range(len(nodes)):
        integral = sum(lagrange_integral(nodes, j, start, end) * n**power for j, n in enumerate(nodes))
        exact = (end ** (power + 1) - start ** (power + 1)) / (power + 1)
        assert integral == pytest.approx(exact, rel=1e-6, abs=1e-3)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_weights_for_steps_of_one_length_are_adams_and_bashforths(order):
    weights, denominator = ADAMS_BASHFORTH[order]
    variable = variable_weights([torch.tensor(-0.7)] * order)
    assert [float(w) for w in variable] == pytest.approx([w / denominator for w in weights], abs=1e-5)


@given(st.lists(st.floats(0.1, 3.0), min_size=1, max_size=3))
def test_weights_of_a_constant_slope_add_up_to_one(lengths):
    assert float(sum(variable_weights([torch.tensor(-h) for h in lengths]))) == pytest.approx(1.0, abs=1e-3)


def test_deis_weights_of_any_order_carry_a_constant_equally_far():
    times, betas = vp_times(torch.tensor([14.6, 7.0, 3.0, 1.0]))
    assert (times.diff() < 0).all()
    sums = [
        sum(float(w) for w in deis_weights([times[2 - k] for k in range(n)], times[3], betas))
        for n in (1, 2, 3)
    ]
    assert sums == pytest.approx([sums[0]] * 3, rel=1e-3)
    assert sums[0] == pytest.approx(-2.0, rel=0.01)  # in VP time the slope's integral is the change of sigma


@pytest.mark.parametrize("name", ["ipndm", "ipndm_v", "deis", "lms"])
def test_order_one_is_euler(name):
    option = "order" if name == "lms" else "max_order"
    assert torch.allclose(
        a_run(name, options=((option, 1),)).result, a_run("euler").result, rtol=1e-4, atol=1e-5
    )


def test_gradient_estimation_without_overshoot_is_euler():
    quiet = a_run("gradient_estimation", options=(("ge_gamma", 1.0),)).result
    assert torch.allclose(quiet, a_run("euler").result, rtol=1e-4, atol=1e-5)
