import pytest
import torch

from backend.components import Weights
from backend.models.families import flux, sd3
from backend.patches import CascadeSampling, ContinuousSampling, FlowSampling
from backend.references import Model
from backend.worker.predictions import format_of, prediction_of
from tests.backend.models.families.originals import FLUX, SD3
from tests.nodes.build import a_storage, run

MODEL = Model(Weights("denoiser", "m", ()))


def patch(tmp_path, name: str, **inputs):
    return run(name, a_storage(tmp_path), model=MODEL, **inputs).patches[-1]


def test_flows_have_the_shift_that_is_asked_for(tmp_path):
    assert patch(tmp_path, "ModelSamplingSD3", shift=5.0) == FlowSampling("shifted", 5.0, 1000.0)
    assert patch(tmp_path, "ModelSamplingAuraFlow", shift=3.0) == FlowSampling("shifted", 3.0, 1.0)


@pytest.mark.parametrize(("side", "shift"), [(256, 0.5), (1024, 1.15)])
def test_fluxs_shift_grows_with_the_picture(tmp_path, side: int, shift: float):
    made = patch(tmp_path, "ModelSamplingFlux", max_shift=1.15, base_shift=0.5, width=side, height=side)
    assert made.kind == "exponential"
    assert made.shift == pytest.approx(shift)


def test_the_last_of_them_says_how_a_model_samples():
    patches = (FlowSampling("shifted", 5.0, 1000.0), FlowSampling("exponential", 0.5))
    assert prediction_of(SD3, patches).range.sigma is not None
    assert float(prediction_of(SD3, patches[:1]).range.percent_to_sigma(0.5)) == pytest.approx(5 / 6)
    assert prediction_of(SD3).range.percent_to_sigma(0.5) == pytest.approx(0.75)
    assert prediction_of(FLUX).range.percent_to_sigma(0.5) == pytest.approx(0.7595, abs=1e-3)


def test_ranges_without_steps_and_stable_cascades(tmp_path):
    edm = patch(tmp_path, "ModelSamplingContinuousEDM", sampling="edm", sigma_max=80.0, sigma_min=0.002)
    assert edm == ContinuousSampling("edm", 0.002, 80.0)
    assert prediction_of(SD3, (edm,)).sigma_data == 0.5
    cosmos = prediction_of(SD3, (ContinuousSampling("cosmos_rflow", 0.002, 80.0),))
    assert float(cosmos.range.timestep(torch.tensor(3.0))) == 0.75
    assert float(cosmos.range.sigma(torch.tensor(0.75))) == pytest.approx(3.0)
    assert float(cosmos.range.sigma(torch.tensor(1.0))) == pytest.approx(80.0)
    v = patch(tmp_path, "ModelSamplingContinuousV", sampling="v_prediction", sigma_max=500.0, sigma_min=0.03)
    assert v.angle
    cascade = prediction_of(SD3, (CascadeSampling(2.0),))
    assert cascade.kind == "eps"
    sigmas = cascade.range.sigmas
    assert bool((sigmas[1:] >= sigmas[:-1]).all())
    middle = sigmas[5000]
    assert float(cascade.range.sigma(cascade.range.timestep(middle))) > 0


def test_playgrounds_latents_are_scaled_by_channel():
    playground = ContinuousSampling("edm_playground_v2.5", 0.002, 120.0)
    assert isinstance(format_of(SD3, (playground,)).scale, tuple)
    assert format_of(SD3) is sd3.LATENT
    assert format_of(FLUX) is flux.LATENT
