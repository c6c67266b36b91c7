import pytest
import torch

from backend.guiders import CfgGuider, ForeignSampler, Noise, Sampler, Schedule
from backend.ops import Denoise
from backend.registry import Registry
from backend.sampling.discretization import scaled_linear, sigma_max, sigma_min
from backend.sampling.prediction import Prediction
from backend.sampling.sigmas import model_sigmas
from backend.worker.begin import sigmas_of
from backend.worker.conducted import levels_of
from comfy_compat.own_samplers import offer_own_samplers
from nodes.sampling import ksampler, ksampler_select
from nodes.schedules import basic_scheduler


@pytest.fixture
def registry(comfy) -> Registry:
    return Registry([ksampler, ksampler_select, basic_scheduler])


def even(n, sigma_min, sigma_max):
    return torch.linspace(sigma_max, sigma_min, n + 1)[:n]


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


def test_a_schedule_that_a_pack_adds_is_offered_and_makes_a_runs_levels(registry: Registry, monkeypatch):
    import comfy.samplers as samplers

    def halving(model_sampling, steps):
        return torch.tensor([float(model_sampling.sigma_max) / 2**i for i in range(steps)] + [0.0])

    handlers = {"halving": samplers.SchedulerHandler(halving), "even": samplers.SchedulerHandler(even, False)}
    monkeypatch.setattr(samplers, "SCHEDULER_HANDLERS", {**samplers.SCHEDULER_HANDLERS, **handlers})
    monkeypatch.setattr(samplers.KSampler, "SCHEDULERS", [*samplers.KSampler.SCHEDULERS, "halving", "even"])
    assert offer_own_samplers(registry) == ["halving", "even"]
    for name in ("KSampler", "BasicScheduler"):
        assert registry.find(name).input("scheduler").choice.now(None)[-2:] == ["halving", "even"]
    run = registry.find("KSampler").function(
        model="m",
        positive="p",
        negative="n",
        latent_image="l",
        sampler_name="euler",
        scheduler="halving",
        steps=3,
    )
    prediction = Prediction("eps", scaled_linear(0.00085, 0.012))
    top = float(sigma_max(prediction.range))
    assert sigmas_of(run, prediction).tolist() == pytest.approx([top, top / 2, top / 4, 0.0])
    part = registry.find("KSampler").function(
        **{"model": "m", "positive": "p", "negative": "n", "latent_image": "l"},
        **{"sampler_name": "euler", "scheduler": "halving", "steps": 2, "denoise": 0.5},
    )
    assert sigmas_of(part, prediction).tolist() == pytest.approx([top / 4, top / 8, 0.0])
    made = registry.find("BasicScheduler").function(model="m", scheduler="even", steps=2)
    levels = model_sigmas(made.schedule, prediction.range, levels_of(made.schedule, prediction))
    assert levels.tolist() == pytest.approx([top, (top + float(sigma_min(prediction.range))) / 2])


def test_a_pack_that_calculates_sigmas_itself_is_asked_by_the_name(registry: Registry, monkeypatch):
    import comfy.samplers as samplers

    def mine(model_sampling, scheduler_name, steps):
        return torch.full((steps + 1,), float(len(scheduler_name)))

    monkeypatch.setattr(samplers.KSampler, "SCHEDULERS", [*samplers.KSampler.SCHEDULERS, "four"])
    assert offer_own_samplers(registry) == []  # nothing would make it
    monkeypatch.setattr(samplers, "calculate_sigmas", mine)
    assert offer_own_samplers(registry) == ["four"]
    made = registry.find("BasicScheduler").function(model="m", scheduler="four", steps=2)
    prediction = Prediction("eps", scaled_linear(0.00085, 0.012))
    assert levels_of(made.schedule, prediction)(2).tolist() == [4.0, 4.0, 4.0]


def test_a_name_without_a_function_is_left_out(registry: Registry, monkeypatch, caplog):
    import comfy.samplers

    monkeypatch.setattr(comfy.samplers.KSampler, "SAMPLERS", [*comfy.samplers.KSampler.SAMPLERS, "absent"])
    assert offer_own_samplers(registry) == []
    assert "absent" in caplog.text
