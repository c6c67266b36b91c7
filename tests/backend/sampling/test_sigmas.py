import math

import pytest
import scipy.special  # noqa: F401  # the beta schedule imports it: no example shall be timed with that
import torch
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import UnsupportedOption
from backend.guiders import BetaSchedule, Schedule, TurboSchedule
from backend.sampling.discretization import continuous, exponential_flow, scaled_linear, shifted_flow
from backend.sampling.names import SCHEDULER_NAMES
from backend.sampling.sigmas import (
    beta,
    exponential,
    karras,
    kl_optimal,
    laplace,
    model_sigmas,
    named_sigmas,
    polyexponential,
    resolution_shifted,
    schedule_sigmas,
    variance_preserving,
)
from tests.backend.sampling.shared import shared_json
from tests.backend.sampling.test_discretization import RANGES

SD = scaled_linear()
FOUR_STEPS = {  # over Stable Diffusion's range; as ComfyUI 0.3.64 computes them
    "sgm_uniform": [14.6146402, 4.08608103, 1.61558032, 0.695149541, 0.0],
    "karras": [14.6146431, 3.16860485, 0.446918577, 0.0291671772, 0.0],
    "exponential": [14.6146402, 1.84002364, 0.231664181, 0.0291671604, 0.0],
    "ddim_uniform": [4.11669636, 1.62369204, 0.698398113, 0.0413144119, 0.0],
    "beta": [14.6146412, 5.68659163, 1.61827886, 0.515390635, 0.0],
    "normal": [14.6146402, 2.91830707, 0.932357967, 0.0291671604, 0.0],
    "linear_quadratic": [14.6146412, 14.4319582, 14.2492752, 10.5956154, 0.0],
}


@given(st.sampled_from(SCHEDULER_NAMES), st.integers(1, 60))
def test_a_schedule_falls_from_the_top_of_the_range_to_zero(scheduler, steps):
    for noise_range in (SD, shifted_flow(3.0), exponential_flow()):
        sigmas = named_sigmas(scheduler, steps, noise_range)
        assert sigmas.dtype == torch.float32
        assert sigmas[-1] == 0
        assert (sigmas.diff() < 0).all()
        assert sigmas[0] <= noise_range.sigmas[-1] * (1 + 1e-6)
        if scheduler not in ("ddim_uniform", "beta"):
            assert len(sigmas) == steps + 1
            assert float(sigmas[0]) == pytest.approx(float(noise_range.sigmas[-1]), rel=1e-5)


def test_karras_is_even_in_its_root_and_exponential_in_its_logarithm():
    assert torch.allclose(karras(9, 0.03, 14.6)[:-1].pow(1 / 7).diff().diff(), torch.zeros(7), atol=1e-5)
    assert torch.allclose(exponential(9, 0.03, 14.6)[:-1].log().diff().diff(), torch.zeros(7), atol=1e-5)
    assert torch.allclose(polyexponential(9, 0.03, 14.6), exponential(9, 0.03, 14.6), rtol=1e-5)
    assert torch.allclose(kl_optimal(9, 0.03, 14.6)[:-1].atan().diff().diff(), torch.zeros(7), atol=1e-5)


def test_one_step_of_kl_optimal_starts_at_the_top():
    assert kl_optimal(1, 0.03, 14.6).tolist() == [pytest.approx(14.6), 0.0]


def test_the_other_spacings_have_their_closed_forms():
    assert variance_preserving(1).tolist() == [
        pytest.approx(math.sqrt(math.expm1(19.9 / 2 + 0.1)), rel=1e-5),
        0.0,
    ]
    spread = laplace(5, 0.01, 10.0)
    assert float(spread[2]) == pytest.approx(1.0, abs=1e-4)  # the median is e^mu
    assert float(spread[1] * spread[3]) == pytest.approx(1.0, rel=1e-4)  # the quartiles lie evenly about it
    assert spread.min() >= 0.01
    assert spread.max() <= 10.0


def test_a_range_that_reaches_zero_gets_no_second_zero():
    to_zero = shifted_flow(1.0, steps=1_000_000)  # its least sigma is 1e-6
    for scheduler in ("normal", "ddim_uniform"):
        sigmas = named_sigmas(scheduler, 5, to_zero)
        assert (sigmas < 1e-5).sum() == 1


def test_denoise_takes_the_last_steps_of_a_longer_schedule():
    whole = named_sigmas("normal", 10, SD)
    assert schedule_sigmas(Schedule("normal", 5, 0.5), SD, "euler").tolist() == whole[-6:].tolist()
    assert model_sigmas(Schedule("normal", 5, 0.5), SD).tolist() == whole[-6:].tolist()
    assert len(schedule_sigmas(Schedule("normal", 5, 0.0), SD, "euler")) == 0
    assert len(model_sigmas(Schedule("normal", 5, 0.0), SD)) == 0


def test_start_and_end_cut_a_stretch_out_of_the_schedule():
    whole = named_sigmas("karras", 8, SD)

    def cut(**changes):
        return schedule_sigmas(Schedule("karras", 8, **changes), SD, "euler").tolist()

    assert cut(start=2, end=5, force_full_denoise=False) == whole[2:6].tolist()
    assert cut(start=2, end=5, force_full_denoise=True) == [*whole[2:5].tolist(), 0.0]
    assert cut(start=0, end=10_000) == whole.tolist()
    assert cut(start=8) == cut(start=10_000) == cut(start=5, end=5) == []


def test_some_samplers_lose_the_last_sigma_but_one():
    whole = named_sigmas("normal", 6, SD).tolist()
    for sampler in ("dpm_2", "dpm_2_ancestral", "uni_pc", "uni_pc_bh2"):
        assert schedule_sigmas(Schedule("normal", 5), SD, sampler).tolist() == [*whole[:-2], 0.0]


def test_an_unknown_schedule_or_no_steps_is_refused_with_what_to_do():
    with pytest.raises(
        UnsupportedOption, match=r"scheduler='cosine' is not supported. Use one of simple, sgm_uniform"
    ):
        named_sigmas("cosine", 5, SD)
    with pytest.raises(UnsupportedOption, match=r"steps=0 is not supported. Use 1 or more"):
        named_sigmas("karras", 0, SD)


def test_a_continuous_range_takes_every_schedule():
    noise_range = continuous(0.002, 80.0)
    for scheduler in SCHEDULER_NAMES:
        assert named_sigmas(scheduler, 6, noise_range).isfinite().all()


@pytest.mark.parametrize("scheduler", FOUR_STEPS)
def test_four_steps_are_as_recorded(scheduler):
    assert named_sigmas(scheduler, 4, SD).tolist() == pytest.approx(FOUR_STEPS[scheduler], rel=1e-6)


@pytest.mark.parity
@pytest.mark.parametrize("model", RANGES)
def test_schedules_equal_the_recorded_ones(model):
    noise_range, rows = RANGES[model](), shared_json("parity/facts/sigmas.json")[model]["schedules"]
    assert rows
    for scheduler, steps, denoise, sampler, wanted in rows:
        if wanted[0] != wanted[0]:  # not a number: one step of kl_optimal, which ours can
            assert (scheduler, len(wanted)) == ("kl_optimal", 2)
            continue
        got = schedule_sigmas(Schedule(scheduler, steps, denoise), noise_range, sampler).tolist()
        assert got == pytest.approx(wanted, rel=1e-6), (scheduler, steps, denoise, sampler)


@pytest.mark.parity
def test_the_schedule_nodes_spacings_equal_the_recorded_ones():
    facts = shared_json("parity/facts/sigmas.json")["nodes_sd15"]
    made = {
        "BetaSamplingScheduler": beta(SD, 7, 0.7, 0.5),
        "KarrasScheduler": karras(7, 0.0291675, 14.614642, 7.0),
        "PolyexponentialScheduler": polyexponential(7, 0.0291675, 14.614642, 1.4),
    }
    for node, sigmas in made.items():
        assert sigmas.tolist() == pytest.approx(facts[node]["sigmas"], rel=1e-6), node


@pytest.mark.parametrize(("steps", "denoise", "times"), [(1, 1.0, [999]), (4, 0.5, [499, 399, 299, 199])])
def test_turbo_sigmas_are_those_of_its_ten_times(steps, denoise, times):
    sigmas = model_sigmas(TurboSchedule(steps, denoise), SD)
    assert sigmas.tolist() == pytest.approx([*SD.sigmas[times].tolist(), 0.0], rel=1e-6)


def test_a_beta_schedule_has_its_own_parameters():
    assert torch.equal(model_sigmas(BetaSchedule(6, 0.6, 0.6), SD), named_sigmas("beta", 6, SD))
    assert model_sigmas(BetaSchedule(6, 2.0, 2.0), SD)[1] < named_sigmas("beta", 6, SD)[1]
    with pytest.raises(UnsupportedOption, match="Use numbers above 0"):
        model_sigmas(BetaSchedule(6, 0.0, 0.6), SD)


def test_a_flows_shift_grows_with_the_latent_and_its_end_is_stretched():
    small, large = (resolution_shifted(8, tokens, (0.95, 2.05)) for tokens in (1024, 4096))
    assert float(small[4]) == pytest.approx(math.exp(0.95) / (math.exp(0.95) + 1), rel=1e-6)
    assert (large[1:-1] > small[1:-1]).all()
    stretched = resolution_shifted(8, 1024, (0.95, 2.05), terminal=0.1)
    assert [float(stretched[i]) for i in (0, -2, -1)] == pytest.approx([1.0, 0.1, 0.0])
