import pytest

from backend.guiders import CfgGuider, ForeignSampler, Noise, Sampler, Schedule
from backend.ops import Denoise
from backend.registry import Registry
from comfy_compat.own_samplers import offer_own_samplers
from nodes.sampling import ksampler, ksampler_select


@pytest.fixture
def registry(comfy) -> Registry:
    return Registry([ksampler, ksampler_select])


def test_without_packs_nothing_changes(registry: Registry):
    assert offer_own_samplers(registry) == []
    assert registry.find("KSampler") is ksampler


def test_a_name_that_a_pack_adds_is_offered_and_runs_as_its_function(registry: Registry, monkeypatch):
    import comfy.samplers

    def mine(model, x, sigmas, extra_args=None, callback=None, disable=None):
        return x

    monkeypatch.setattr(comfy.samplers.k_diffusion_sampling, "sample_mine", mine, raising=False)
    monkeypatch.setattr(comfy.samplers.KSampler, "SAMPLERS", [*comfy.samplers.KSampler.SAMPLERS, "mine"])
    assert offer_own_samplers(registry) == ["mine"]
    for name in ("KSampler", "KSamplerSelect"):
        offered = registry.find(name).input("sampler_name").choice.now(None)
        assert offered[-1] == "mine"
        assert offered[0] == "euler"
    selected = registry.find("KSamplerSelect").function(sampler_name="mine")
    assert isinstance(selected, ForeignSampler)
    assert registry.find("KSamplerSelect").function(sampler_name="heun") == Sampler("heun")
    run = registry.find("KSampler").function(
        model="m", positive="p", negative="n", latent_image="l", sampler_name="mine", scheduler="karras"
    )
    assert run == Denoise(CfgGuider("m", "p", "n", 8.0), "l", Noise(0), selected, Schedule("karras", 20, 1.0))


def test_a_name_without_a_function_is_left_out(registry: Registry, monkeypatch, caplog):
    import comfy.samplers

    monkeypatch.setattr(comfy.samplers.KSampler, "SAMPLERS", [*comfy.samplers.KSampler.SAMPLERS, "absent"])
    assert offer_own_samplers(registry) == []
    assert "absent" in caplog.text
