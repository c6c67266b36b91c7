"""Runs that packs conduct, over a network whose estimate is half of what it is shown."""

import pickle
from dataclasses import dataclass

import pytest
import torch

from backend.components import Weights
from backend.errors import UnsupportedOption
from backend.guiders import ForeignGuider, ForeignNoise, ForeignSampler, Sampler
from backend.references import Model
from backend.sampling.discretization import scaled_linear
from backend.sampling.foreign import Setup
from backend.sampling.prediction import Prediction
from comfy_compat.foreign import Hooks, Part, conducted
from comfy_compat.values import hand_out, take_in

MODEL = Model(Weights("denoiser", "digest", ()))
SIGMAS = torch.tensor([4.0, 2.0, 0.0])


@dataclass
class Network:
    """A host. asked: (x, sigma, step) of the requests for the usual guidance; sides: those predicted."""

    prediction = Prediction("eps", scaled_linear())
    device = torch.device("cpu")
    model = MODEL

    def __post_init__(self):
        self.asked, self.sides = [], []

    def ask(self, request):
        self.asked.append((float(request.x.mean()), float(request.sigma), request.step))
        return request.x / 2

    def predict(self, side, x, sigma, code):
        self.sides.append(side)
        return x / (2 if side == "positive" else 4)


def a_setup(**more):
    shape = (1, 4, 2, 2)
    given = {
        "noise": torch.ones(shape),
        "latent": torch.zeros(shape),
        "sigmas": SIGMAS,
        "mask": None,
        "seed": 1,
        "sides": ("positive", "negative"),
        "cfg": 7.0,
        "sampler": "euler",
        "options": (),
    }
    return Setup(**{**given, **more})


@pytest.fixture
def network(comfy, monkeypatch):
    import comfy_compat.run_model

    plain = {"process_latent_in": lambda x: x, "process_latent_out": lambda x: x}
    monkeypatch.setattr(comfy_compat.run_model.RunModel, "__getattr__", lambda self, name: plain[name])
    return Network()


def conduct(network, *codes, **more):
    return conducted(network, network.ask, a_setup(**more), codes)


def after_its_journey(value):
    return pickle.loads(pickle.dumps(take_in(value)))


def test_a_function_of_a_pack_samples_and_its_steps_are_told(network):
    import comfy.samplers

    def halving(model, x, sigmas, extra_args=None, callback=None, disable=None, times=1):
        for i in range(len(sigmas) - 1):
            denoised = model(x, sigmas[i] * x.new_ones([len(x)]), **extra_args)
            callback({"i": i, "denoised": denoised, "x": x})
            x = denoised * times
        return x

    reference = after_its_journey(comfy.samplers.KSAMPLER(halving, {"times": 3}))
    assert isinstance(reference, ForeignSampler)
    ended = conduct(network, pickle.loads(reference.code))
    assert [(sigma, step) for _, sigma, step in network.asked] == [(4.0, 0), (2.0, 1)]
    start = float(network.asked[0][0])
    assert float(ended.samples.mean()) == pytest.approx(start / 2 * 3 / 2 * 3)
    assert float(ended.denoised.mean()) == pytest.approx(start / 2 * 3 / 2)


def test_a_known_sampler_stays_the_servers(network):
    import comfy.samplers
    from comfy.k_diffusion import sampling

    assert take_in(comfy.samplers.sampler_object("dpmpp_2m")) == Sampler("dpmpp_2m")
    assert take_in(comfy.samplers.KSAMPLER(sampling.sample_euler)) == Sampler("euler")


def test_a_sampler_that_a_pack_adds_by_name_is_found(network, monkeypatch):
    import comfy.samplers

    monkeypatch.setattr(
        comfy.samplers.k_diffusion_sampling, "sample_mine", lambda model, x, sigmas, **more: x, raising=False
    )
    assert isinstance(take_in(comfy.samplers.sampler_object("mine")), ForeignSampler)


def test_a_guider_of_a_pack_predicts_by_its_own_rule(network):
    import comfy.samplers

    from comfy_compat.patcher import ModelPatcher

    class Sum(comfy.samplers.CFGGuider):
        def predict_noise(self, x, timestep, model_options={}, seed=None):  # noqa: B006
            conds = [self.conds[side] for side in ("positive", "negative")]
            return sum(comfy.samplers.calc_cond_batch(self.inner_model, conds, x, timestep, model_options))

    guider = Sum(ModelPatcher.of(MODEL))
    pair = [[torch.zeros(1, 77, 8), {}]]
    guider.set_conds(pair, pair)
    reference = after_its_journey(guider)
    assert isinstance(reference, ForeignGuider)
    assert [side for side, _ in reference.sides] == ["positive", "negative"]
    conduct(network, pickle.loads(reference.code), sigmas=SIGMAS[:2])
    assert network.sides == ["positive", "negative"]
    assert network.asked == []
    assert type(hand_out(reference)).__name__ == "Sum"


def test_a_noise_object_makes_the_noise_of_a_run(network):
    class Ramp:
        seed = 9

        def generate_noise(self, latent):
            return torch.arange(latent["samples"].numel()).reshape(latent["samples"].shape)

    reference = after_its_journey(Ramp())
    assert isinstance(reference, ForeignNoise)
    assert reference.seed == 9
    made = pickle.loads(reference.code).make_noise({"samples": torch.zeros(1, 2, 2, 2)})
    assert made.flatten().tolist() == list(range(8))


def test_wrappers_of_a_run_act_in_their_order(network):
    def outer(executor, noise, *rest):
        return executor(noise * 2, *rest) + 1

    def predict(executor, x, *rest):
        return executor(x, *rest) * 10

    hooks = Hooks({}, {}, {"outer_sample": {"k": [outer]}, "predict_noise": {"k": [predict]}}, {}, {})
    assert hooks.conducts
    ended = conduct(network, hooks, sigmas=torch.tensor([1.0, 0.0]))
    first = network.asked[0][0]
    assert first == pytest.approx(2.0)
    assert float(ended.samples.mean()) == pytest.approx(first / 2 * 10 + 1)


def test_what_prepares_a_run_sees_its_model_and_conditions_and_may_not_change_them(network):
    seen = []

    def look(executor, model, noise_shape, conds, model_options):
        real, conds, models = executor(model, noise_shape, conds, model_options=model_options)
        seen.append((tuple(noise_shape), sorted(conds), real is model.model, models))
        return real, conds, models

    def change(executor, model, noise_shape, conds, model_options):
        real, conds, models = executor(model, noise_shape, conds, model_options=model_options)
        return real, {**conds, "positive": []}, models

    hooks = Hooks({}, {}, {"prepare_sampling": {"k": [look]}}, {}, {})
    assert (hooks.conducts, hooks.unsupported()) == (True, [])
    assert float(conduct(network, hooks).samples.mean()) == float(conduct(network).samples.mean())
    assert seen == [((1, 4, 2, 2), ["negative", "positive"], True, [])]
    with pytest.raises(UnsupportedOption, match="prepare_sampling"):
        conduct(network, Hooks({}, {}, {"prepare_sampling": {"k": [change]}}, {}, {}))


def test_a_mask_follows_the_packs_function(network):
    def open_at_end(sigma, mask, extra_options):
        assert extra_options["sigmas"].tolist() == SIGMAS.tolist()
        return mask if float(sigma[0]) > 3 else torch.ones_like(mask)

    hooks = Hooks({"denoise_mask_function": open_at_end}, {}, {}, {}, {})
    kept = torch.full((1, 4, 2, 2), 5.0)
    ended = conduct(network, hooks, mask=torch.zeros(1, 4, 2, 2), latent=kept)
    first, second = (x for x, _, _ in network.asked)
    assert first == pytest.approx(5.0 + 4.0)  # the latent, and its noise at that level
    assert float(ended.samples.mean()) == pytest.approx(second / 2)  # open: the network's estimate


def test_the_parts_evaluated_together_are_the_packs_where_it_says_so(network):
    def batch(args):
        assert [c[0]["side"] for c in args["conds"]] == ["positive", "negative"]
        return [args["input"], args["input"] * 0]

    ended = conduct(network, Hooks({"sampler_calc_cond_batch_function": batch}, {}, {}, {}, {}))
    assert network.asked == []
    assert ended.samples.isfinite().all()


def test_what_a_sampler_does_not_take_is_refused_by_name(network):
    import comfy.samplers
    from comfy.k_diffusion import sampling

    def wrong(model, x, sigmas, **more):
        return sampling.sample_euler(model, x, sigmas, extra_args=more["extra_args"], no_such_option=1)

    part = Part(sampler=comfy.samplers.KSAMPLER(wrong))
    with pytest.raises(UnsupportedOption, match="no_such_option"):
        conduct(network, part)
