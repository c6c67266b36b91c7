import torch

from backend.sampling.request import DenoiseRequest
from backend.sampling.run import Outcome, Run
from backend.types import Latent
from backend.worker import traced as module
from backend.worker.traced import traced

LATENT = Latent(torch.zeros(1, 4, 2, 2), noise_mask=torch.ones(1, 2, 2))


def a_run(steps: int, closed: list[str] | None = None, uncond: bool = False) -> Run:
    """Each step asks twice, the second time within the step; it ends one above what that was answered."""
    x = LATENT.samples
    try:
        for step in range(steps):
            yield DenoiseRequest(x, torch.tensor(1.0), step, uncond)
            x = (yield DenoiseRequest(x + 100, torch.tensor(0.5))) + 1
    finally:
        if closed is not None:
            closed.append("closed")
    return Outcome(x, None)


def finish(outcome: Outcome) -> tuple[Latent, ...]:
    return Latent(outcome.samples), Latent(outcome.samples)


def answered(run: Run) -> Outcome:
    """The end of a run whose estimates are half of what is asked about."""
    try:
        request = next(run)
        while True:
            half = request.x / 2
            request = run.send(torch.stack([half, half * 9]) if request.uncond else half)
    except StopIteration as end:
        return end.value


def trace_of(steps: int, uncond: bool = False) -> torch.Tensor:
    run, end = traced(a_run(steps, uncond=uncond), finish, LATENT, steps)
    samples, denoised, trace = end(answered(run))
    assert samples.samples.equal(answered(a_run(steps)).samples)
    assert denoised.samples.equal(samples.samples)
    assert trace.noise_mask is None
    return trace.samples


def test_each_step_is_kept_with_its_estimate_and_what_it_began_with():
    for uncond in (False, True):
        trace = trace_of(5, uncond)
        assert trace.shape == (5, 2, *LATENT.samples.shape)
        begun = [float(x.mean()) for _, x in trace]
        assert begun == [0.0, 51.0, 76.5, 89.25, 95.625]
        assert [float(estimate.mean()) for estimate, _ in trace] == [x / 2 for x in begun]


def test_of_a_large_run_the_last_step_is_kept(monkeypatch):
    monkeypatch.setattr(module, "MOST", 2 * 3 * 16 * 4 - 1)
    assert [float(x.mean()) for _, x in trace_of(3)] == [76.5]
    assert len(trace_of(2)) == 2


def test_a_run_without_steps_has_an_empty_trace():
    assert len(trace_of(0)) == 0


def test_a_run_that_is_given_up_is_closed():
    closed: list[str] = []
    run, _ = traced(a_run(3, closed), finish, LATENT, 3)
    next(run)
    run.close()
    assert closed == ["closed"]
