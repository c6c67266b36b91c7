"""What patches make of two predictions; tests/parity/test_further.py holds their values to ComfyUI's."""

from dataclasses import replace

import pytest
import torch

from backend.patches import (
    CfgNorm,
    CfgZeroStar,
    EpsilonScale,
    FrequencyGuidance,
    ProjectedGuidance,
    RenormCfg,
    RowScales,
    TangentialDamping,
)
from backend.sampling.stages import Memory, Seen, after, before, guided

RNG = torch.Generator().manual_seed(4)
X, P, N = (torch.randn(3, 4, 8, 8, generator=RNG) for _ in range(3))
SEEN = Seen(X, torch.tensor(2.0), 5.0, P, N, both=True)
ALONE = replace(SEEN, uncond=torch.zeros_like(N), scale=1.0, both=False)
CFG = N + 5.0 * (P - N)


def test_projected_guidance_with_nothing_set_is_guidance_one_stronger():
    """ComfyUI adds the plain difference once more, divided by the scale."""
    cond, uncond = before(ProjectedGuidance(1.0, 0.0, 0.0), 0, SEEN, Memory())
    assert torch.equal(uncond, N)
    assert torch.allclose(cond, N + (P - N) * 1.2, atol=1e-5)


def test_momentum_sums_up_until_the_noise_rises_again():
    memory, patch = Memory(), ProjectedGuidance(1.0, 0.0, 0.5)
    first, _ = before(patch, 0, SEEN, memory)
    second, _ = before(patch, 0, replace(SEEN, sigma=torch.tensor(1.0)), memory)
    assert torch.allclose(second - first, 0.5 * (P - N), atol=1e-5)
    again, _ = before(patch, 0, replace(SEEN, sigma=torch.tensor(9.0)), memory)
    assert torch.allclose(again, first, atol=1e-5)


def test_a_threshold_limits_the_guidances_norm():
    cond, _ = before(ProjectedGuidance(1.0, 2.0, 0.0), 0, SEEN, Memory())
    change = cond - N - (P - N) / 5.0
    assert change.flatten(1).norm(dim=1).tolist() == pytest.approx([2.0] * 3, rel=1e-4)


def test_without_a_negative_prediction_nothing_is_damped_or_filtered():
    for patch in (TangentialDamping(), FrequencyGuidance(0.5, 2.0, 2)):
        assert before(patch, 0, ALONE, Memory()) == (ALONE.cond, ALONE.uncond)


def test_damping_leaves_a_negative_along_the_positive_as_it_is():
    cond, uncond = before(TangentialDamping(), 0, replace(SEEN, uncond=X - 2 * (X - P)), Memory())
    assert cond is P
    assert torch.allclose(uncond, X - 2 * (X - P), atol=1e-4)


def test_equal_factors_for_all_frequencies_scale_the_guidance():
    cond, _ = before(FrequencyGuidance(1.5, 1.5, 2), 0, SEEN, Memory())
    assert torch.allclose(cond, N + 1.5 * (P - N), atol=1e-4)


def test_above_its_noise_level_renormed_guidance_is_none():
    assert guided(RenormCfg(2.0, 1.0), SEEN) is P
    assert torch.allclose(guided(RenormCfg(2.1, 0.0), SEEN), CFG)
    limited = guided(RenormCfg(2.1, 1.0), SEEN).flatten(1).norm(dim=1)
    assert torch.allclose(limited, P.flatten(1).norm(dim=1), rtol=1e-4)


@pytest.mark.parametrize(("shape", "scales"), [("linear", [1, 3, 5]), ("triangle", [1, 5, 1])])
def test_each_row_has_a_scale_of_its_own(shape, scales):
    scale = torch.tensor(scales).reshape(3, 1, 1, 1)
    assert torch.allclose(guided(RowScales(1.0, shape), SEEN), N + scale * (P - N), atol=1e-4)


def test_a_normed_result_is_nowhere_longer_than_the_prediction():
    limited = after(CfgNorm(1.0), CFG, SEEN)
    assert (limited.norm(dim=1) <= P.norm(dim=1) * (1 + 1e-5)).all()
    assert torch.allclose(after(CfgNorm(0.5), CFG, SEEN), limited * 0.5)


def test_zero_star_equals_guidance_where_both_predictions_fit_already():
    seen = replace(SEEN, uncond=P)
    assert torch.allclose(after(CfgZeroStar(), P, seen), P, atol=1e-4)


def test_epsilon_scaling_divides_what_is_taken_off():
    assert torch.allclose(X - after(EpsilonScale(2.0), CFG, SEEN), (X - CFG) / 2, atol=1e-5)
    assert after(EpsilonScale(0.0), CFG, SEEN).isfinite().all()
