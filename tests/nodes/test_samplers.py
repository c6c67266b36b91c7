import pytest

from backend.components import Weights
from backend.guiders import Sampler
from backend.references import Model
from backend.sampling.names import SAMPLER_NAMES
from backend.sampling.samplers import UNLISTED, option_names
from tests.nodes.build import REGISTRY, run

NODES = [
    spec.name for spec in REGISTRY if spec.name.startswith("Sampler") and spec.outputs[0].type == "SAMPLER"
]


def test_options_travel_with_the_name():
    assert run("SamplerEulerAncestral", eta=0.5) == Sampler(
        "euler_ancestral", (("eta", 0.5), ("s_noise", 1.0))
    )
    assert run("SamplerLMS", order=3) == Sampler("lms", (("order", 3),))


@pytest.mark.parametrize(("device", "name"), [("cpu", "dpmpp_sde"), ("gpu", "dpmpp_sde_gpu")])
def test_where_noise_is_made_is_part_of_the_name(device, name):
    assert run("SamplerDPMPP_SDE", noise_device=device, r=0.25).name == name


@pytest.mark.parametrize("name", NODES)
def test_every_sampler_and_every_option_exists(name):
    inputs = {
        "noise_device": "gpu",
        "solver_type": "ODE" if name == "SamplerER_SDE" else "heun",
        "version": "alternative",
        "upscale_method": "bislerp",
        "model": Model(Weights("denoiser", "m", ())),
        "use_pece": True,
        "simple_order_2": False,
    }
    wanted = {i.name for i in REGISTRY.find(name).inputs}
    sampler = run(name, **{key: value for key, value in inputs.items() if key in wanted})
    assert sampler.name in {*SAMPLER_NAMES, *UNLISTED}
    assert {key for key, _ in sampler.options} <= set(option_names(sampler.name))
