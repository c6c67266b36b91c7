"""Many runs in one loop: each as if alone."""

import pytest
import torch

from backend.errors import UnsupportedOption
from backend.models.preview import latent_to_rgb
from backend.sampling.request import DenoiseRequest
from backend.sampling.run import Outcome
from backend.types import OpKey
from backend.worker.messages import Failed, Preview, Progress
from backend.worker.preview import Shown
from backend.worker.steploop import Ended, StepLoop
from tests.backend.worker.fakes import FORMAT, SIGMAS, Formula, a_cond, a_run, an_op, steered


def finished(*runs, max_rows=64, previews=None):
    """Run to the end together. Returns: the loop and its reports."""
    reports = []
    loop = StepLoop(max_rows, reports.append)
    for run in runs:
        loop.add(an_op(), run, previews)
    for _ in range(50):
        if not len(loop):
            return loop, reports
        loop.turn()
    raise AssertionError("the loop does not end")


def samples(reports, key="op"):
    return next(r.outputs[0].samples for r in reports if isinstance(r, Ended) and r.key == key)


def test_runs_share_passes_and_each_ends_as_it_does_alone():
    network = Formula()
    alone = {key: samples(finished(a_run(key, seed=seed))[1], key) for key, seed in (("a", 1), ("b", 2))}
    loop, reports = finished(a_run("a", network, seed=1), a_run("b", network, seed=2))
    for key, expected in alone.items():
        assert torch.allclose(samples(reports, key), expected, atol=1e-5)
    assert network.passes == [4] * 4
    assert (loop.counters.forwards, loop.counters.rows) == (4, 16)
    assert (loop.counters.shared, loop.counters.largest) == (4, 4)


def test_runs_of_other_sizes_or_models_pass_one_by_one():
    network = Formula()
    loop, reports = finished(a_run("a", network), a_run("b", network, size=8), a_run("c"))
    assert loop.counters.shared == 0
    assert {r.key for r in reports if isinstance(r, Ended)} == {"a", "b", "c"}


def test_a_run_may_join_and_leave_in_the_middle_of_another():
    network, reports = Formula(), []
    loop = StepLoop(64, reports.append)
    loop.add(an_op(), a_run("a", network, seed=1), None)
    loop.turn()
    loop.add(an_op(), a_run("b", network, seed=2), None)
    loop.turn()
    assert loop.cancel(OpKey("b"))
    assert not loop.cancel(OpKey("b"))
    while len(loop):
        loop.turn()
    assert network.passes == [2, 4, 2, 2]
    assert torch.allclose(samples(reports, "a"), samples(finished(a_run("a", seed=1))[1], "a"), atol=1e-5)
    assert not any(isinstance(r, Ended) and r.key == "b" for r in reports)


def test_each_step_is_reported_once_and_in_order():
    def two_calls_a_step(x, sigmas):
        for step in range(len(sigmas) - 1):
            x = yield DenoiseRequest(x, sigmas[step], step)
            x = yield DenoiseRequest(x, sigmas[step] / 2)
        return Outcome(x, None)

    _, reports = finished(a_run(sampler=two_calls_a_step))
    assert [(r.value, r.max) for r in reports if isinstance(r, Progress)] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert isinstance(reports[-1], Ended)


def test_at_cfg_one_the_negative_condition_costs_nothing():
    network = Formula()
    unsteered = steered((a_cond(1.0),), (a_cond(-1.0),), cfg=1.0)
    _, with_negative = finished(a_run(network=network, steering=unsteered))
    _, without = finished(a_run(steering=steered((a_cond(1.0),))))
    assert network.passes == [1] * 4
    assert torch.equal(samples(with_negative), samples(without))


def test_guidance_moves_from_the_negative_to_the_positive_estimate():
    def once(x, sigmas):
        return Outcome((yield DenoiseRequest(x, sigmas[0], 0)), None)

    def estimate(steering):
        return samples(finished(a_run(steering=steering, sampler=once))[1])

    positive, negative = (a_cond(1.0),), (a_cond(-1.0),)
    guided = estimate(steered(positive, negative, cfg=5.0))
    p, n = estimate(steered(positive)), estimate(steered(negative))
    assert torch.allclose(guided, n + (p - n) * 5.0, atol=1e-4)


def test_several_conditions_weigh_equally():
    def once(x, sigmas):
        return Outcome((yield DenoiseRequest(x, sigmas[0], 0)), None)

    both = samples(finished(a_run(steering=steered((a_cond(1.0), a_cond(3.0, length=154))), sampler=once))[1])
    middle = samples(finished(a_run(steering=steered((a_cond(2.0),)), sampler=once))[1])
    assert torch.allclose(both, middle, atol=1e-4)


def test_a_sampler_may_ask_for_the_unconditional_estimate_even_at_cfg_one():
    seen = []

    def both(x, sigmas):
        reply = yield DenoiseRequest(x, sigmas[0], 0, uncond=True)
        seen.append(reply)
        return Outcome(reply[0], None)

    finished(a_run(steering=steered((a_cond(1.0),), (a_cond(-1.0),), cfg=1.0), sampler=both))
    finished(a_run(steering=steered((a_cond(1.0),)), sampler=both))
    (guided, negative), (alone, zeros) = seen
    assert torch.allclose(guided, alone, atol=1e-5)
    assert not torch.equal(negative, guided)
    assert not zeros.any()


def test_a_failing_op_takes_no_other_along():
    network = Formula()
    bad = steered((a_cond(float("nan")),))
    _, reports = finished(a_run("bad", network, steering=bad), a_run("good", network, seed=5))
    failure = next(r for r in reports if isinstance(r, Failed))
    assert (failure.key, failure.type, failure.message) == (
        "bad",
        "FloatingPointError",
        "tokens are not numbers",
    )
    assert failure.inputs["sampler"] == ("Sampler(name='euler', options=[])",)
    assert any("forward" in line for line in failure.traceback)
    assert torch.allclose(samples(reports, "good"), samples(finished(a_run("good", seed=5))[1], "good"))


def test_a_pass_too_large_for_memory_is_made_op_by_op():
    network = Formula(most_rows=2)
    loop, reports = finished(a_run("a", network), a_run("b", network))
    assert {r.key for r in reports if isinstance(r, Ended)} == {"a", "b"}
    assert loop.counters.largest == 2


def test_an_option_that_is_not_honoured_is_refused_by_name():
    with pytest.raises(UnsupportedOption, match="conditioning option gligen"):
        a_run(steering=steered((a_cond(1.0, gligen=("position", None)),)))


def test_a_run_without_steps_ends_at_once():
    _, reports = finished(a_run(sigmas=SIGMAS[:1]))
    (ended,) = reports
    assert torch.equal(ended.outputs[0].samples, ended.outputs[1].samples)


def test_previews_are_fitted_jpegs_and_not_made_unasked(monkeypatch):
    from io import BytesIO

    from PIL import Image

    _, reports = finished(a_run(), previews=Shown(128))
    previews = [r for r in reports if isinstance(r, Preview)]
    assert 1 <= len(previews) <= 4  # the loop takes milliseconds, and ten a second are sent
    image = Image.open(BytesIO(previews[0].image))
    assert (image.format, image.size) == ("JPEG", (128, 128))
    assert not any(isinstance(r, Preview) for r in finished(a_run())[1])
    assert latent_to_rgb(torch.zeros(4, 2, 2), FORMAT).shape == (2, 2, 3)


def test_a_paused_run_keeps_its_state_and_ends_as_if_it_never_stopped():
    network, reports = Formula(), []
    loop = StepLoop(64, reports.append)
    loop.add(an_op(), a_run("a", network, seed=1), None)
    loop.turn()
    loop.pause(OpKey("a"))
    assert len(loop) == 0
    loop.add(an_op(), a_run("b", network, seed=2), None)
    loop.turn()
    loop.resume(OpKey("a"))
    while len(loop):
        loop.turn()
    assert network.passes == [2, 2, 4, 4, 4]
    for key, seed in (("a", 1), ("b", 2)):
        alone = samples(finished(a_run(key, seed=seed))[1], key)
        assert torch.allclose(samples(reports, key), alone, atol=1e-5)


def test_a_paused_run_can_be_cancelled():
    loop = StepLoop(64, lambda report: None)
    loop.add(an_op(), a_run("a"), None)
    loop.pause(OpKey("a"))
    assert loop.cancel(OpKey("a"))
    loop.resume(OpKey("a"))
    assert len(loop) == 0


def test_the_time_of_a_pass_is_told_once_by_its_rows():
    loop, _ = finished(a_run("a"))
    ((component, rows, seconds),) = loop.passes()
    assert (component, rows) == (an_op().guider.model.weights.id, 2)
    assert seconds > 0
    assert loop.passes() == ()
