import pytest
import torch

from backend.components import Weights
from backend.guiders import BetaSchedule, TurboSchedule
from backend.ops import ModelSigmas, PercentSigma
from backend.references import Model
from backend.types import Latent
from tests.nodes.build import run

SIGMAS = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.0])


def test_split_sigmas_share_the_sigma_of_the_cut():
    high, low = run("SplitSigmas", sigmas=SIGMAS, step=1)
    assert (high.tolist(), low.tolist()) == ([8, 4], [4, 2, 1, 0])


@pytest.mark.parametrize(
    ("denoise", "high", "low"), [(0.5, [8, 4, 2], [2, 1, 0]), (0.0, [], [0]), (1.0, [8], SIGMAS.tolist())]
)
def test_sigmas_are_split_by_denoise(denoise, high, low):
    parts = run("SplitSigmasDenoise", sigmas=SIGMAS, denoise=denoise)
    assert [part.tolist() for part in parts] == [high, low]


def test_flipped_sigmas_begin_just_above_zero():
    assert run("FlipSigmas", sigmas=SIGMAS).tolist() == pytest.approx([0.0001, 1, 2, 4, 8])
    assert run("FlipSigmas", sigmas=SIGMAS[:0]).tolist() == []
    assert SIGMAS[-1] == 0


def test_the_first_sigma_is_set_on_a_copy():
    assert run("SetFirstSigma", sigmas=SIGMAS, sigma=100.0).tolist() == [100, 4, 2, 1, 0]
    assert SIGMAS[0] == 8
    with pytest.raises(ValueError, match="there are no sigmas"):
        run("SetFirstSigma", sigmas=SIGMAS[:0])


def test_steps_between_two_levels_are_divided():
    inputs = {"sigmas": SIGMAS, "steps": 2, "start_at_sigma": 5.0, "end_at_sigma": 2.0}
    assert run("ExtendIntermediateSigmas", **inputs, spacing="linear").tolist() == [8, 4, 3, 2, 1.5, 1, 0]
    curved = [run("ExtendIntermediateSigmas", **inputs, spacing=s)[2].item() for s in ("cosine", "sine")]
    assert curved[0] < 3 < curved[1]


@pytest.mark.parametrize("name", ["KarrasScheduler", "ExponentialScheduler", "PolyexponentialScheduler"])
def test_schedules_run_from_the_largest_to_zero(name):
    sigmas = run(name, steps=5, sigma_max=10.0, sigma_min=0.5)
    assert sigmas.shape == (6,)
    assert sigmas.tolist() == sorted(sigmas.tolist(), reverse=True)
    assert (sigmas[0].item(), sigmas[-2].item(), sigmas[-1].item()) == pytest.approx((10.0, 0.5, 0.0))


def test_other_processes_have_their_own():
    assert run("VPScheduler", steps=4).shape == (5,)
    laplace = run("LaplaceScheduler", steps=4)
    assert 0.029 < laplace.min() <= laplace.max() < 14.7


def test_aligned_steps_come_from_a_table_or_between_its_entries():
    whole = run("AlignYourStepsScheduler", model_type="SD1", steps=10)
    assert whole[:2].tolist() == pytest.approx([14.6146412293, 6.4745760956])
    assert whole[-1] == 0
    assert run("AlignYourStepsScheduler", model_type="SD1", steps=20)[2].item() == pytest.approx(6.4745760956)
    assert torch.equal(run("AlignYourStepsScheduler", model_type="SD1", steps=10, denoise=0.3), whole[-4:])
    assert run("AlignYourStepsScheduler", model_type="SD1", denoise=0.0).shape == (0,)
    assert run("OptimalStepsScheduler", model_type="FLUX", steps=10)[0].item() == pytest.approx(0.9968)


def test_gits_levels_are_looked_up_and_beyond_twenty_steps_interpolated():
    assert run("GITSScheduler", coeff=1.2, steps=4).tolist()[0] == pytest.approx(14.61464119)
    longer = run("GITSScheduler", coeff=1.2, steps=30, denoise=0.5)
    assert len(longer) == 16
    assert longer[-1] == 0
    assert (longer.diff() < 0).all()


def test_no_denoising_needs_no_gits_levels():
    assert run("GITSScheduler", coeff=1.37, steps=12, denoise=0.0).shape == (0,)


def test_ltxv_sigmas_follow_the_size_of_the_latent():
    small = run("LTXVScheduler", steps=5, latent=Latent(torch.zeros(1, 128, 4, 8, 8)))
    assert (run("LTXVScheduler", steps=5)[1:-2] > small[1:-2]).all()
    assert small[-2] == pytest.approx(0.1)


def test_schedules_of_a_model_are_ops():
    model = Model(Weights("denoiser", "m", ()))
    assert run("SDTurboScheduler", model=model, steps=2) == ModelSigmas(model, TurboSchedule(2, 1.0))
    assert run("BetaSamplingScheduler", model=model) == ModelSigmas(model, BetaSchedule(20, 0.6, 0.6))
    assert run("SamplingPercentToSigma", model=model) == PercentSigma(model, 0.0, False)
