import pytest
import torch

from backend.errors import UnsupportedOption
from backend.guiders import Schedule
from backend.sampling.noise import initial_noise, masked_noise
from backend.sampling.run import Shades, fit_mask, sample
from backend.sampling.sigmas import schedule_sigmas
from tests.backend.sampling.analytic import SEED, a_prediction, denoise, drive

SHAPE = (1, 1, 4, 4)
LATENT = torch.linspace(-1, 1, 16).reshape(SHAPE)
NOISE = initial_noise(SHAPE, SEED)
HALF = torch.zeros(SHAPE).index_fill(3, torch.tensor([2, 3]), 1.0)


def run(
    sampler="euler", kind="eps", steps=5, denoise_by=1.0, sigmas=None, latent=LATENT, noise=NOISE, mask=None
):
    prediction = a_prediction(kind)
    if sigmas is None:
        sigmas = schedule_sigmas(Schedule("karras", steps, denoise_by), prediction.range, sampler)
    return drive(sample(latent, noise, sigmas, sampler=sampler, prediction=prediction, seed=SEED, mask=mask))


def test_a_full_run_starts_from_all_of_the_variance():
    first = run().requests[0]
    assert torch.allclose(first.x, NOISE * (1 + first.sigma**2).sqrt() + LATENT)


def test_a_partial_run_starts_from_the_noised_latent():
    first = run(denoise_by=0.5).requests[0]
    assert torch.allclose(first.x, NOISE * first.sigma + LATENT)
    first = run(kind="flow", denoise_by=0.5).requests[0]
    assert torch.allclose(first.x, NOISE * first.sigma + LATENT * (1 - first.sigma))


def test_without_sigmas_the_latent_comes_back_itself():
    ran = run(sigmas=torch.zeros(0))
    assert ran.requests == []
    assert ran.result.samples is LATENT
    assert ran.result.denoised is None


def test_one_sigma_noises_the_latent_and_runs_no_step():
    outcome = run(sigmas=torch.tensor([2.0])).result
    assert torch.allclose(outcome.samples, LATENT + 2 * NOISE)
    assert outcome.denoised is None


def test_the_outcome_holds_the_last_steps_estimate():
    ran = run(sampler="heun", steps=4)
    opening = [r for r in ran.requests if r.step is not None]
    assert [r.step for r in opening] == [0, 1, 2, 3]
    assert torch.equal(ran.result.denoised, denoise(opening[-1].x, opening[-1].sigma))


def test_a_flow_that_stops_early_is_scaled_to_full_strength():
    sigmas = torch.tensor([0.8, 0.4])
    early = run(kind="flow", sigmas=sigmas)
    request = early.requests[0]
    end = request.x + (request.x - denoise(request.x, request.sigma)) / 0.8 * (0.4 - 0.8)
    assert torch.allclose(early.result.samples, end / 0.6, atol=1e-5)


def test_two_stages_with_leftover_noise_equal_one_run():
    prediction = a_prediction("eps")
    first, second, whole = (
        schedule_sigmas(
            Schedule("karras", 6, start=a, end=b, force_full_denoise=False), prediction.range, "euler"
        )
        for a, b in ((0, 3), (3, None), (None, None))
    )
    middle = run(sigmas=first).result.samples
    staged = run(sigmas=second, latent=middle, noise=torch.zeros(SHAPE)).result.samples
    assert torch.allclose(staged, run(sigmas=whole).result.samples, atol=1e-5)


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "ddim", "euler_ancestral", "euler_cfg_pp", "heun"])
def test_a_masked_run_keeps_the_rest_of_the_latent(sampler):
    outcome = run(sampler, mask=HALF).result
    assert torch.allclose(outcome.samples[HALF == 0], LATENT[HALF == 0], atol=1e-5)
    assert torch.allclose(outcome.denoised[HALF == 0], LATENT[HALF == 0], atol=1e-5)
    assert not torch.allclose(outcome.samples[HALF == 1], LATENT[HALF == 1], atol=0.1)


@pytest.mark.parametrize(("sampler", "fill"), [("euler", NOISE), ("ddim", masked_noise(SHAPE, SEED))])
def test_the_kept_part_follows_the_latent_down_the_noise(sampler, fill):
    for request in run(sampler, mask=HALF).requests:
        expected = LATENT + fill * request.sigma
        assert torch.allclose(request.x[HALF == 0], expected[HALF == 0], atol=1e-5)


def test_a_mask_of_ones_changes_nothing():
    assert torch.allclose(run(mask=torch.ones(SHAPE)).result.samples, run().result.samples, atol=1e-6)


def test_a_soft_mask_mixes_the_estimate_with_the_latent():
    ran = run(steps=1, mask=torch.full(SHAPE, 0.25))
    request = ran.requests[0]
    mixed = denoise(request.x, request.sigma) * 0.25 + LATENT * 0.75
    assert torch.allclose(ran.result.samples, mixed, atol=1e-5)


def test_uni_pc_ends_short_of_zero_and_a_flow_is_scaled_by_that():
    outcome, short = (
        run("uni_pc", "flow", sigmas=torch.tensor([1.0, 0.6, 0.3, last])).result.samples
        for last in (0.0, 0.001)
    )
    assert torch.equal(outcome, short)


def test_sigmas_are_left_as_they_were():
    for sampler in ("uni_pc", "dpmpp_sde", "sa_solver"):
        sigmas = torch.tensor([1.0, 0.6, 0.3, 0.0])
        run(sampler, "flow", sigmas=sigmas)
        assert sigmas.tolist() == torch.tensor([1.0, 0.6, 0.3, 0.0]).tolist()


def test_an_unknown_sampler_is_refused():
    with pytest.raises(UnsupportedOption, match="sampler_name='ddpm2'"):
        run("ddpm2", sigmas=torch.tensor([1.0, 0.0]))


def test_a_mask_is_resized_and_repeated_over_channels_and_rows():
    mask = torch.tensor([[[0.0, 1.0], [0.0, 1.0]], [[1.0, 1.0], [1.0, 1.0]]])
    fitted = fit_mask(mask, (3, 4, 4, 4))
    assert fitted.shape == (3, 4, 4, 4)
    assert fitted[0, 0, 0].tolist() == [0.0, 0.25, 0.75, 1.0]
    assert torch.equal(fitted[0], fitted[2])
    assert fitted[1].min() == 1.0
    assert torch.equal(fit_mask(mask[:, None], (1, 4, 4, 4)), fitted[:1])


def test_a_video_takes_a_mask_per_frame():
    mask = torch.stack([torch.zeros(2, 2), torch.ones(2, 2)])
    fitted = fit_mask(mask, (1, 16, 2, 4, 4))
    assert fitted.shape == (1, 16, 2, 4, 4)
    assert fitted[0, 0, :, 0, 0].tolist() == [0.0, 1.0]


def test_a_differential_mask_samples_each_place_from_its_shade_on():
    prediction = a_prediction("eps")
    sigmas = schedule_sigmas(Schedule("karras", 6), prediction.range, "euler")
    shades = torch.linspace(0, 1, 16).reshape(SHAPE)
    outcome = drive(
        sample(
            LATENT,
            NOISE,
            sigmas,
            sampler="euler",
            prediction=prediction,
            seed=SEED,
            mask=shades,
            differential=1.0,
        )
    )
    first, *_, last = outcome.requests
    follows = LATENT + NOISE * first.sigma
    assert torch.allclose(first.x[shades < 1], follows[shades < 1], atol=1e-4)
    assert (last.x != LATENT + NOISE * last.sigma).sum() > 8  # most of it is sampled by then


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_no_strength_means_all_of_it(strength):
    shades = Shades(strength, torch.tensor([14.0, 0.0]))
    mask = shades.mask(torch.tensor([0.2, 0.9]), torch.tensor(1.6), a_prediction("eps"))
    assert set(mask.tolist()) <= {0.0, 1.0}
    half = Shades(0.5, shades.sigmas).mask(torch.tensor([0.2, 0.9]), torch.tensor(1.6), a_prediction("eps"))
    assert torch.allclose(half, 0.5 * mask + 0.5 * torch.tensor([0.2, 0.9]))
