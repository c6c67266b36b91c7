import pytest
import torch

from tests.backend.sampling.analytic import a_run, gaussian

X = torch.tensor([[[[14.0, -3.0, 0.5]]]])


@pytest.mark.parametrize(("name", "stages"), [("seeds_2", 2), ("seeds_3", 3)])
def test_every_step_but_the_last_costs_its_stages(name, stages):
    ran = a_run(name, steps=5)
    assert len(ran.requests) == 4 * stages + 1
    sigmas = [float(r.sigma) for r in ran.requests]
    assert sigmas == sorted(sigmas, reverse=True)


def test_more_stages_are_nearer_to_the_exact_solution():
    exact = X / (1 + 14.6146412**2) ** 0.5
    quiet = {"seeds_2": (("eta", 0.0),), "seeds_3": (("eta", 0.0),), "er_sde": (("solver_type", "ODE"),)}
    errors = {
        name: float((a_run(name, x=X, model=gaussian, options=options).result - exact).norm() / exact.norm())
        for name, options in {"euler": (), **quiet}.items()
    }
    assert all(errors[name] < errors["euler"] for name in quiet)
    assert errors["seeds_3"] < errors["seeds_2"]


def test_noise_of_the_whole_range_reaches_unit_variance():
    """For unit data every SDE ends at unit data, whatever the share of fresh noise."""
    x = torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(1)) * 14.65
    for name in ("seeds_2", "seeds_3", "er_sde"):
        ran = a_run(name, x=x, steps=40, model=gaussian)
        assert float(ran.result.std()) == pytest.approx(1.0, abs=0.12)


def test_er_sdes_kinds_differ_and_the_ode_draws_no_noise():
    kinds = [
        a_run("er_sde", options=(("solver_type", k),)).result for k in ("ER-SDE", "Reverse-time SDE", "ODE")
    ]
    assert not torch.allclose(kinds[0], kinds[1], atol=1e-2)
    still = a_run("er_sde", options=(("solver_type", "Reverse-time SDE"), ("eta", 0.0))).result
    assert torch.equal(still, kinds[2])
