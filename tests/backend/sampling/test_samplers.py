"""Every sampler by name. What each file's samplers are held to beyond this stands in that file's test."""

import json
from pathlib import Path

import pytest
import torch

from backend.errors import UnsupportedOption
from backend.guiders import Schedule
from backend.sampling.names import SAMPLER_NAMES
from backend.sampling.noise import initial_noise
from backend.sampling.samplers import make_sampler, option_names
from backend.sampling.sigmas import schedule_sigmas
from tests.backend.sampling.analytic import a_prediction, a_run, denoise, drive, gaussian

# Results of these formulas over the denoiser in analytic.py, equal to those of ComfyUI 0.3.64's samplers.
RECORDED = json.loads((Path(__file__).parent / "recorded.json").read_text())
STOCHASTIC = frozenset(
    n for n in SAMPLER_NAMES if "ancestral" in n or "sde" in n or n in ("ddpm", "lcm", "seeds_2", "seeds_3")
) | {"sa_solver", "sa_solver_pece"}
SHARED_STEPS = frozenset({"dpm_adaptive"})  # it measures its error over the whole batch
NOT_IN_ONE_STEP = frozenset({"dpm_fast", "dpm_adaptive", "uni_pc", "uni_pc_bh2"})  # they do not move there


def case_id(case) -> str:
    return "-".join([case["kind"], case["sampler"], *(f"{k}={v}" for k, v in case["options"].items())])


@pytest.mark.parametrize("case", RECORDED, ids=case_id)
def test_results_and_evaluations_are_as_recorded(case):
    ran = a_run(case["sampler"], case["kind"], options=tuple(case["options"].items()))
    assert ran.result.flatten().tolist() == pytest.approx(case["result"], rel=2e-5, abs=2e-6)
    assert len(ran.requests) == case["evaluations"]
    assert ran.steps == list(range(case["steps"]))


def test_every_sampler_is_recorded_for_diffusion_and_flow():
    assert {(c["sampler"], c["kind"]) for c in RECORDED} == {
        (n, k) for n in SAMPLER_NAMES for k in ("eps", "flow")
    }


@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_a_seed_decides_the_noise_and_nothing_else_does(name):
    x = initial_noise((1, 1, 2, 3), 1) * 14.6
    first, again, other = (
        a_run(name, x=x, seed=seed, options=stochastic_options(name)).result for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (name not in STOCHASTIC)


@pytest.mark.parametrize("name", sorted(set(SAMPLER_NAMES) - SHARED_STEPS))
def test_a_row_does_not_depend_on_its_neighbours(name):
    ours, theirs = torch.ones(1, 1, 2, 3) * 5, torch.arange(6.0).reshape(1, 1, 2, 3)
    first = a_run(name, x=torch.cat([ours, theirs])).result
    second = a_run(name, x=torch.cat([ours, theirs * -3 + 1])).result
    assert torch.equal(first[0], second[0])
    assert not torch.equal(first[1], second[1])


@pytest.mark.parametrize("name", sorted(set(SAMPLER_NAMES) - NOT_IN_ONE_STEP))
@pytest.mark.parametrize("kind", ["eps", "flow"])
def test_one_step_to_zero_is_the_denoised_estimate(name, kind):
    ran = a_run(name, kind, steps=1)
    expected = denoise(ran.requests[0].x, ran.requests[0].sigma)
    assert torch.allclose(ran.result, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", sorted(NOT_IN_ONE_STEP))
def test_some_samplers_do_not_move_in_one_step(name):
    """The ends of their range fall together; uni_pc still scales x to a clean latent's variance."""
    x = torch.arange(6.0).reshape(1, 1, 2, 3)
    ran = a_run(name, x=x, sigmas=torch.tensor([3.0, 0.0]))
    assert torch.allclose(ran.result, x / 10**0.5 if name.startswith("uni_pc") else x)


@pytest.mark.parametrize("name", SAMPLER_NAMES)
@pytest.mark.parametrize("count", [0, 1])
def test_without_a_step_x_is_returned_as_it_is(name, count):
    x = torch.arange(6.0).reshape(1, 1, 2, 3)
    ran = a_run(name, x=x, sigmas=torch.tensor([3.0])[:count])
    assert ran.requests == []
    assert torch.allclose(ran.result, x)


@pytest.mark.parametrize("name", sorted(set(SAMPLER_NAMES) - STOCHASTIC - {"lms", "dpm_adaptive", "heunpp2"}))
def test_deterministic_samplers_approach_the_exact_solution(name):
    """For unit data the ODE keeps x / sqrt(1 + sigma^2); CFG++ gets the same model for both of its
    estimates.
    """
    x = torch.tensor([[[[14.0, -3.0, 0.5]]]])
    errors = []
    for steps in (12, 48):
        prediction = a_prediction("eps")
        sigmas = schedule_sigmas(Schedule("karras", steps), prediction.range, name)
        sampler = make_sampler(name, x, sigmas, prediction=prediction, seed=0)
        exact = x / (1 + float(sigmas[0]) ** 2) ** 0.5
        errors.append(float((drive(sampler, gaussian, gaussian).result - exact).norm() / exact.norm()))
    assert errors[1] < 0.06
    assert errors[1] < max(errors[0] * 0.5, 1e-3)  # uni_pc is as near as its last sigma lets it be at once


@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_only_cfg_plus_plus_asks_for_the_unconditional_estimate(name):
    assert {r.uncond for r in a_run(name).requests} == {name.endswith("_cfg_pp")}


@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_requests_are_float32_scalars_within_the_schedule(name):
    ran = a_run(name)
    for request in ran.requests:
        assert request.sigma.shape == ()
        assert request.sigma.dtype == request.x.dtype == torch.float32
        assert 0 < request.sigma <= 14.62


def test_an_unknown_sampler_is_refused_with_the_known_ones():
    with pytest.raises(
        UnsupportedOption, match=r"sampler_name='eular' is not supported. Use one of euler, euler_cfg"
    ):
        a_run("eular", sigmas=torch.tensor([1.0, 0.0]), x=torch.zeros(1))


def test_an_unknown_option_is_refused_with_the_known_ones():
    with pytest.raises(UnsupportedOption, match=r"ddim's eta=0.5 is not supported. It takes s_churn, s_tmin"):
        a_run("ddim", options=(("eta", 0.5),))
    with pytest.raises(UnsupportedOption, match=r"It takes no options"):
        a_run("dpmpp_2m", options=(("eta", 0.5),))


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("dpmpp_2m_sde", "solver_type", "euler"),
        ("dpmpp_sde", "noise_device", "tpu"),
        ("dpmpp_sde", "r", 0.0),
        ("lms", "order", 0),
        ("ipndm", "max_order", 5),
        ("deis", "max_order", 0),
        ("dpm_adaptive", "order", 4),
        ("er_sde", "solver_type", "SDE"),
        ("er_sde", "max_stage", 4),
        ("sa_solver", "predictor_order", 0),
        ("sa_solver", "corrector_order", 7),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(name, option, value):
    with pytest.raises(UnsupportedOption, match=f"{option}={value!r} is not supported. Use "):
        a_run(name, options=((option, value),))


def test_gpu_names_differ_in_where_their_noise_is_drawn_alone():
    for name in ("dpmpp_sde", "dpmpp_2m_sde", "dpmpp_2m_sde_heun", "dpmpp_3m_sde"):
        assert torch.equal(a_run(name).result, a_run(f"{name}_gpu").result)  # on a CPU there is but one place
        assert "noise_device" in option_names(name)


def stochastic_options(name: str):
    """SA-Solver adds noise only in the middle of the range: widen that to all of it."""
    return (("sde_start_percent", 0.0), ("sde_end_percent", 1.0)) if name.startswith("sa_solver") else ()
