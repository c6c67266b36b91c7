import pytest

from backend.errors import UnsupportedOption
from backend.references import Sampler
from backend.sampling.names import SAMPLER_NAMES
from backend.sampling.samplers import option_names
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
    inputs = {"noise_device": "gpu", "solver_type": "heun", "version": "regular"}
    wanted = {i.name for i in REGISTRY.find(name).inputs}
    sampler = run(name, **{key: value for key, value in inputs.items() if key in wanted})
    assert sampler.name in SAMPLER_NAMES
    assert {key for key, _ in sampler.options} <= set(option_names(sampler.name))


def test_what_is_not_served_is_refused():
    with pytest.raises(UnsupportedOption, match="version='alternative'"):
        run("SamplerEulerCFGpp", version="alternative")
