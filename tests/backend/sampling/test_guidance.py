import torch

from backend.sampling.guidance import cfg, dual_cfg, needs_uncond, nested_cfg, stacked

A, B, C = (torch.full((1, 1, 2, 2), v) for v in (3.0, 1.0, -1.0))


def test_guidance_moves_from_the_unconditional_through_the_conditional_estimate():
    assert torch.equal(cfg(A, B, 1.0), A)
    assert torch.equal(cfg(A, B, 0.0), B)
    assert torch.equal(cfg(A, B, 4.0), torch.full_like(A, 9.0))


def test_the_unconditional_estimate_is_spared_at_scale_one():
    assert not needs_uncond(1.0)
    assert not needs_uncond(1.0 + 1e-12)
    assert needs_uncond(1.01)
    assert needs_uncond(1.0, forced=True)


def test_two_guidances_with_scale_one_give_the_condition():
    assert torch.equal(dual_cfg(A, B, C, 1.0, 1.0), A)
    assert torch.equal(nested_cfg(A, B, C, 1.0, 1.0), A)
    assert torch.equal(dual_cfg(A, B, C, 2.0, 3.0), torch.full_like(A, -1 + 3 * 2 + 2 * 2))
    assert torch.equal(nested_cfg(A, B, C, 2.0, 3.0), torch.full_like(A, -1 + 3 * (5 + 1)))


def test_a_missing_negative_counts_as_zeros_in_an_answer_of_two():
    assert torch.equal(stacked(A, B), torch.stack([A, B]))
    assert torch.equal(stacked(A, None)[1], torch.zeros_like(A))
