"""What guiders ask for, and what they make of the answers."""

import pytest
import torch

from backend.components import Weights
from backend.errors import UnsupportedOption
from backend.guiders import BasicGuider, CfgGuider, DualCfgGuider, PerpNegGuider
from backend.patches import PerturbedAttention, RescaleCfg, SelfAttention
from backend.references import Model
from backend.sampling.discretization import scaled_linear
from backend.sampling.guidance import perp_neg, rescaled_cfg
from backend.sampling.request import DenoiseRequest
from backend.sampling.stages import Memory
from backend.sampling.steer import Estimate, sides_of, steer

WEIGHTS = Weights("denoiser", "fake", ())
RNG = torch.Generator().manual_seed(3)
X, P, M, N, E, WORSE = (torch.randn(1, 4, 8, 8, generator=RNG) for _ in range(6))
GIVEN = {"positive": P, "middle": M, "negative": N, "empty": E}


def model(*patches):
    return Model(WEIGHTS, (), patches)


def guided(guider, uncond=False, given=GIVEN):
    """The result, and the rounds of asks."""
    request = DenoiseRequest(X, torch.tensor(2.0), uncond=uncond)
    steering, rounds = steer(guider, request, scaled_linear(), Memory()), []
    try:
        asks = next(steering)
        while True:
            rounds.append(asks)
            asks = steering.send([answered(ask, given) for ask in asks])
    except StopIteration as end:
        return end.value, rounds


def answered(ask, given):
    value = WORSE if ask.perturbed or ask.x is not None else given[ask.side]
    return Estimate(value, torch.full((1, 16), 2.0) if ask.watched else None)


def cond(*patches, cfg=5.0):
    return CfgGuider(model(*patches), (), (), cfg)


def test_guidance_moves_from_the_negative_to_the_positive_side():
    result, rounds = guided(cond())
    assert torch.allclose(result.denoised, N + 5.0 * (P - N))
    assert torch.equal(result.uncond, N)
    assert [[ask.side for ask in asks] for asks in rounds] == [["positive", "negative"]]


def test_at_scale_one_the_negative_side_is_asked_only_where_the_sampler_wants_it():
    result, rounds = guided(cond(cfg=1.0))
    assert torch.equal(result.denoised, P)
    assert not result.uncond.any()
    assert [len(asks) for asks in rounds] == [1]
    result, rounds = guided(cond(cfg=1.0), uncond=True)
    assert torch.allclose(result.denoised, P, atol=1e-6)
    assert torch.equal(result.uncond, N)


def test_a_basic_guider_hands_on_the_one_estimate():
    result, _ = guided(BasicGuider(model(), ()))
    assert torch.equal(result.denoised, P)


def test_two_guidances_are_added_up_or_one_within_the_other():
    regular, _ = guided(DualCfgGuider(model(), (), (), (), 6.0, 3.0))
    assert torch.allclose(regular.denoised, N + 3.0 * (M - N) + 6.0 * (P - M), atol=1e-5)
    nested, _ = guided(DualCfgGuider(model(), (), (), (), 6.0, 3.0, nested=True))
    inner = M + 6.0 * (P - M)
    assert torch.allclose(nested.denoised, N + 3.0 * (inner - N), atol=1e-5)


def test_a_dual_guider_asks_for_no_side_that_has_no_part():
    for cfg, middle, sides in ((6.0, 1.0, {"positive", "middle"}), (1.0, 1.0, {"positive"})):
        result, ((*asks,),) = guided(DualCfgGuider(model(), (), (), (), cfg, middle))
        assert {ask.side for ask in asks} == sides
    assert torch.equal(result.denoised, P)


def test_perpendicular_guidance_ignores_what_of_the_negative_points_along_the_positive():
    result, _ = guided(PerpNegGuider(model(), (), (), (), 4.0, 1.5))
    assert torch.allclose(result.denoised, perp_neg(P, N, E, 1.5, 4.0))
    moved = {**GIVEN, "negative": N + 0.7 * (P - E)}
    other, _ = guided(PerpNegGuider(model(), (), (), (), 4.0, 1.5), given=moved)
    assert torch.allclose(other.denoised, result.denoised, atol=1e-4)
    plain, ((*asks,),) = guided(PerpNegGuider(model(), (), (), (), 4.0, 0.0))
    assert torch.allclose(plain.denoised, E + 4.0 * (P - E), atol=1e-5)
    assert {ask.side for ask in asks} == {"positive", "empty"}


def test_rescaling_by_zero_changes_nothing_and_by_one_gives_the_deviation_of_the_positive_side():
    sigma = torch.tensor(2.0)
    assert torch.allclose(rescaled_cfg(P, N, 5.0, X, sigma, 0.0), N + 5.0 * (P - N), atol=1e-4)
    full = rescaled_cfg(P, N, 5.0, X, sigma, 1.0)
    root = (sigma**2 + 1) ** 0.5

    def deviation(denoised):
        return ((X / root**2 - denoised) * root / sigma).std(dim=(1, 2, 3))

    assert torch.allclose(deviation(full), deviation(P), atol=1e-4)
    result, _ = guided(cond(RescaleCfg(0.2), RescaleCfg(1.0)))
    assert torch.allclose(result.denoised, full)


def test_perturbed_attention_is_asked_in_the_same_round_and_steered_away_from():
    result, rounds = guided(cond(PerturbedAttention(3.0)))
    assert [(ask.side, ask.perturbed) for ask in rounds[0]] == [
        ("positive", False),
        ("negative", False),
        ("positive", True),
    ]
    assert len(rounds) == 1
    assert torch.allclose(result.denoised, N + 5.0 * (P - N) + 3.0 * (P - WORSE), atol=1e-5)
    assert len(guided(cond(PerturbedAttention(0.0)))[1][0]) == 2


def test_self_attention_guidance_asks_again_with_a_latent_blurred_where_the_network_looked():
    result, (first, (again,)) = guided(cond(SelfAttention(0.5, 2.0), cfg=1.0))
    assert [(ask.side, ask.watched) for ask in first] == [("positive", False), ("negative", True)]
    assert again.side == "negative"
    degraded = again.x - X + N
    assert 0 < float(degraded.std()) < float(N.std()) * 0.5  # all of it is looked at, so all of it is blurred
    assert torch.allclose(result.denoised, P + 0.5 * (degraded - WORSE), atol=1e-5)


def test_self_attention_guidance_without_a_negative_side_is_refused():
    with pytest.raises(UnsupportedOption, match=r"BasicGuider.*negative conditioning"):
        guided(BasicGuider(model(SelfAttention(0.5, 2.0)), ()))


def test_the_sides_of_every_guider_are_fields_of_it():
    dual = DualCfgGuider(model(), (), (), (), 1.0, 1.0)
    for guider in (cond(), BasicGuider(model(), ()), dual, PerpNegGuider(model(), (), (), (), 1.0, 1.0)):
        assert all(getattr(guider, side) == () for side in sides_of(guider))
