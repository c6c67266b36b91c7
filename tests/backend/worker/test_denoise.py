"""One op's calls and answers, and that runs of every kind in one loop end as each does alone."""

import pytest
import torch

from backend.components import Weights
from backend.latent_operations import Tonemap
from backend.patches import (
    Blocks,
    CfgNorm,
    CfgZeroStar,
    Downscale,
    EasyCache,
    EpsilonScale,
    FreeU,
    FrequencyGuidance,
    GuidanceOperation,
    HyperTile,
    LazyCache,
    Mahiro,
    PerpNegative,
    PerturbedAttention,
    ProjectedGuidance,
    RenormCfg,
    RescaleCfg,
    RowScales,
    SkipLayers,
    SkipLayersInNegative,
    TangentialDamping,
    TokenMerging,
)
from backend.references import ControlNet, ControlUse, Hook, Hooks, Keyframe, Keyframes, OtherModel
from backend.sampling.names import SAMPLER_NAMES
from backend.sampling.request import DenoiseRequest
from backend.sampling.run import Outcome, sample
from backend.worker.steploop import Ended, StepLoop
from tests.backend.worker.fakes import (
    PREDICTION,
    SIGMAS,
    ControlFormula,
    Formula,
    a_cond,
    a_run,
    an_op,
    steered,
)

NET = ControlNet(Weights("controlnet", "c", ()))
SIZE = 16


def controlled(value, image=0.5, strength=0.8, start=0.0, end=1.0, **options):
    use = ControlUse(NET, torch.full((1, 64, 64, 3), image), strength, start, end)
    return a_cond(value, control=(use,), **options)


def a_mask():
    mask = torch.zeros(1, SIZE, SIZE)
    mask[:, 3:12, 5:14] = 0.7
    return mask


# name -> the guider of one user
USERS = {
    "plain": lambda: steered((a_cond(1.0),), (a_cond(-1.0),), cfg=3.0),
    "long text": lambda: steered((a_cond(0.7, length=231),), (a_cond(-0.5, length=77),), cfg=7.0),
    "unsteered": lambda: steered((a_cond(0.4, length=154),)),
    "area": lambda: steered(
        (a_cond(1.0), a_cond(2.0, area=(8, 12, 4, 0), strength=0.6)), (a_cond(-1.0),), cfg=4.0
    ),
    "mask": lambda: steered(
        (a_cond(0.2), a_cond(1.5, mask=a_mask(), set_area_to_bounds=True)), (a_cond(-1.0),), cfg=2.0
    ),
    "times": lambda: steered(
        (a_cond(1.0, end_percent=0.4), a_cond(-2.0, start_percent=0.4)), (a_cond(-1.0),), cfg=3.0
    ),
    "control": lambda: steered((controlled(1.0),), (controlled(-1.0, 0.2),), cfg=3.0),
    "control for a while": lambda: steered(
        (controlled(1.0, end=0.5, control_apply_to_uncond=True),), (a_cond(-1.0),), cfg=3.0
    ),
    "perturbed": lambda: steered(
        (a_cond(1.0),),
        (a_cond(-1.0),),
        cfg=3.0,
        patches=(PerturbedAttention(2.0), FreeU(1.1, 1.2, 0.9, 0.2, 2)),
    ),
}


TEXT = (a_cond(1.0),), (a_cond(-1.0),)
HOOK = Hooks((Hook(Weights("lora", "h", ()), 0.4, 1.0, Keyframes((Keyframe(0.5, 0.0), Keyframe(2.0, 0.3)))),))
# name -> the patches of one user's model
GUIDANCES = {
    "rescaled": (RescaleCfg(0.7),),
    "perturbed": (PerturbedAttention(2.0),),
    "skipping": (SkipLayers(Blocks((0,)), 2.0, 0.0, 1.0, 0.4),),
    "negative skipping": (SkipLayersInNegative(Blocks((), (0,)), 0.0, 0.6),),
    "projected": (ProjectedGuidance(0.5, 5.0, -0.4),),
    "damped": (TangentialDamping(),),
    "frequencies": (FrequencyGuidance(0.9, 1.4, 2),),
    "operation": (GuidanceOperation(Tonemap(0.8)),),
    "renormed": (RenormCfg(8.0, 0.9),),
    "by row": (RowScales(1.0, "triangle"),),
    "perp-neg": (PerpNegative((a_cond(0.1),), 1.2),),
    "norm": (CfgNorm(0.9),),
    "zero star": (CfgZeroStar(),),
    "mahiro": (Mahiro(),),
    "epsilon": (EpsilonScale(1.03),),
    "cached": (EasyCache(0.3, 0.0, 1.0),),
    "lazy": (LazyCache(0.3, 0.0, 1.0),),
    "free": (FreeU(1.1, 1.2, 0.9, 0.2, 2),),
    "tiled": (HyperTile(32, 4, 1, False), TokenMerging(0.3)),
    "several": (PerturbedAttention(1.0), ProjectedGuidance(0.3, 8.0, 0.2), RescaleCfg(0.5), CfgNorm(1.1)),
}
USERS |= {
    "hooked": lambda: steered((a_cond(1.0, hooks=HOOK),), (a_cond(-1.0),), cfg=3.0),
    "default": lambda: steered(
        (a_cond(1.0, mask=a_mask(), hooks=HOOK), a_cond(0.3, default=True)), (a_cond(-1.0),), cfg=3.0
    ),
}


def finished(runs):
    """Samples by key, and the loop."""
    ended = {}

    def report(said):
        if isinstance(said, Ended):
            ended[said.key] = said.outputs[0].samples

    loop = StepLoop(64, report)
    for run in runs:
        loop.add(an_op(), run, None)
    for _ in range(2000):
        if not len(loop):
            return ended, loop
        loop.turn()
    raise AssertionError("the loop does not end")


def a_user(name, network, control, seed, sampler):
    def run(x, sigmas):
        noise = x / 14.6
        return sample(torch.zeros_like(x), noise, sigmas, sampler=sampler, prediction=PREDICTION, seed=seed)

    return a_run(
        name, network, seed, SIZE, USERS[name](), run, SIGMAS, nets={NET: control}, batch=1 + seed % 2
    )


@pytest.mark.parametrize("sampler", SAMPLER_NAMES)
def test_users_of_every_kind_share_passes_and_each_ends_as_alone(sampler):
    network, control = Formula(), ControlFormula()
    runs = [a_user(name, network, control, seed, sampler) for seed, name in enumerate(USERS)]
    together, loop = finished(runs)
    assert loop.counters.shared > 0
    assert max(control.rows) >= 3  # rows with control, of two users, in one pass of the ControlNet
    for seed, name in enumerate(USERS):
        alone, _ = finished([a_user(name, Formula(), ControlFormula(), seed, sampler)])
        scale = alone[name].abs().max()
        assert torch.allclose(together[name], alone[name], atol=1e-4 * float(scale)), name


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m_cfg_pp", "heun"])
@pytest.mark.parametrize("cfg", [3.0, 1.0])
def test_users_of_every_guidance_share_passes_and_each_ends_as_alone(sampler, cfg):
    def a_guided(name, network, seed):
        def run(x, sigmas):
            noise = x / 14.6
            return sample(
                torch.zeros_like(x), noise, sigmas, sampler=sampler, prediction=PREDICTION, seed=seed
            )

        guider = steered(*TEXT, cfg=cfg, patches=GUIDANCES[name])
        return a_run(name, network, seed, SIZE, guider, run, SIGMAS, batch=1 + seed % 2)

    network = Formula()
    together, loop = finished([a_guided(name, network, seed) for seed, name in enumerate(GUIDANCES)])
    assert loop.counters.shared > 0
    for seed, name in enumerate(GUIDANCES):
        alone, _ = finished([a_guided(name, Formula(), seed)])
        assert torch.isfinite(alone[name]).all(), name
        scale = alone[name].abs().max()
        assert torch.allclose(together[name], alone[name], atol=1e-4 * float(scale)), name


def test_what_changes_little_is_not_computed_again():
    network = Formula()
    finished([a_run(network=network, steering=steered(*TEXT, cfg=3.0, patches=(EasyCache(1e9, 0.0, 1.0),)))])
    assert network.passes == [2, 2]  # the first two steps; then the ratio of change is known
    network = Formula()
    finished([a_run(network=network, steering=steered(*TEXT, cfg=3.0, patches=(LazyCache(1e9, 0.0, 1.0),)))])
    assert network.passes == [2, 2]


def test_a_hook_is_as_strong_as_its_keyframe_has_it_now():
    def late(sigma):
        return estimate(steered((a_cond(1.0, hooks=HOOK),)), sigma)

    def plain(sigma):
        return estimate(steered((a_cond(1.0),)), sigma)

    early = (late(14.6) - plain(14.6)) / -14.6
    assert torch.allclose(early, torch.full_like(early, 0.4 * 0.5), atol=1e-4)
    then = (late(0.1) - plain(0.1)) / -0.1
    assert torch.allclose(then, torch.full_like(then, 0.4 * 2.0), atol=1e-3)


def test_a_model_in_the_place_of_a_lora_is_the_network_of_its_conditions_alone():
    other, asked = Weights("denoiser", "other", ()), []
    own, drawn = Formula(), Formula()

    def moved(others, loras):
        asked.append((others, loras))
        return drawn, (0.25,)

    model = Hook(OtherModel(other, ()), 0.8, 1.0, Keyframes((Keyframe(0.5, 0.0),)))
    hooks = Hooks((model, HOOK.hooks[0]))
    guider = steered((a_cond(1.0, hooks=hooks),), (a_cond(-1.0),), cfg=3.0)
    finished(
        [a_run(network=own, steering=guider, sampler=once, sigmas=torch.tensor([7.0, 0.0]), moved=moved)]
    )
    (others, (lora,)) = asked[0]
    assert others == ((other, 0.8 * 0.5),)
    assert lora.weights == HOOK.hooks[0].lora
    assert (own.passes, drawn.passes) == ([1], [1])


def test_a_default_condition_counts_where_the_others_leave_room():
    masked = a_cond(1.0, mask=a_mask())
    got = estimate(steered((masked, a_cond(2.0, default=True))), size=SIZE)
    outside, inside = (
        estimate(steered((a_cond(2.0),)), size=SIZE),
        estimate(steered((a_cond(1.0),)), size=SIZE),
    )
    assert torch.allclose(got[..., :3, :], outside[..., :3, :], atol=1e-4)
    mixed = 0.7 * inside + 0.3 * outside
    assert torch.allclose(got[..., 3:12, 5:14], mixed[..., 3:12, 5:14], atol=1e-4)
    whole = estimate(steered((a_cond(1.0), a_cond(2.0, default=True))), size=SIZE)
    assert torch.equal(whole, inside)


def once(x, sigmas):
    return Outcome((yield DenoiseRequest(x, sigmas[0], 0)), None)


def estimate(guider, sigma=7.0, **given):
    ended, _ = finished([a_run(steering=guider, sampler=once, sigmas=torch.tensor([sigma, 0.0]), **given)])
    return ended["op"]


def test_an_area_is_computed_for_its_rectangle_alone():
    network = Formula()
    estimate(steered((a_cond(1.0, area=(8, 12, 4, 0)),)), network=network, size=SIZE)
    run = a_run(steering=steered((a_cond(1.0, area=(8, 12, 4, 0)),)), size=SIZE)
    assert [tuple(call.x.shape) for call in run.calls()] == [(1, 4, 8, 12)]
    run.close()


def test_outside_of_all_areas_the_estimate_is_zero_and_inside_as_without_one():
    got = estimate(steered((a_cond(1.0, area=(8, 12, 4, 0)),)), size=SIZE)
    whole = estimate(steered((a_cond(1.0),)), size=SIZE)
    assert torch.allclose(got[..., 4:12, :12], whole[..., 4:12, :12], atol=1e-4)
    assert not got[..., :4, :].any()


def test_a_run_none_of_whose_conditions_count_goes_on_with_zero():
    got = estimate(steered((a_cond(1.0, start_percent=0.9),)), sigma=14.0)
    assert not got.any()


def test_the_weights_of_conditions_are_relative():
    def both(a, b):
        return estimate(steered((a_cond(1.0, strength=a), a_cond(3.0, strength=b))))

    assert torch.allclose(both(1.0, 3.0), estimate(steered((a_cond(2.5),))), atol=1e-4)
    assert torch.allclose(both(0.5, 1.5), both(1.0, 3.0), atol=1e-4)


def test_controlnets_add_up_and_each_works_for_its_time_only():
    def use(strength, start=0.0, end=1.0):
        return ControlUse(NET, torch.full((1, 64, 64, 3), 0.5), strength, start, end)

    def run(*uses, sigma=7.0):
        guider = steered((a_cond(1.0, control=uses),))
        return estimate(guider, sigma, nets={NET: ControlFormula()})

    assert torch.allclose(run(use(0.5), use(0.3)), run(use(0.8)), atol=1e-5)
    assert torch.equal(run(use(0.5), use(0.3, end=0.1), sigma=1.0), run(use(0.5), sigma=1.0))
    assert not torch.equal(run(use(0.5)), run())


def test_rows_that_work_at_a_lower_resolution_pass_by_themselves_and_only_for_their_time():
    deep = Downscale(1, 2.0, 0.0, 0.2, True, "bicubic", "bicubic")
    network = Formula()
    sides = (a_cond(1.0),), (a_cond(-1.0),)
    runs = [
        a_run("a", network, steering=steered(*sides, cfg=3.0)),
        a_run("b", network, steering=steered(*sides, cfg=3.0, patches=(deep,))),
    ]
    _, loop = finished(runs)
    assert loop.counters.sizes == ((2, 4), (4, 2))  # two steps apart, then two steps together
