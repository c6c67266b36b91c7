import torch
from torch import Tensor

from backend.models.changes import Decomposed, Delta, Kron, Rotation, changed, dense
from tests.backend.models.conftest import relative


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_middle_stands_between_down_and_up():
    delta = Delta(noise(3, 4, 1, 1), noise(5, 2, 1, 1, seed=1), noise(2, 3, 3, 3, seed=2), scale=0.5)
    assert delta.down is not None
    assert delta.up is not None
    assert delta.mid is not None
    expected = torch.zeros(5, 4, 3, 3)
    for row in range(3):
        for column in range(3):
            product = delta.up[:, :, 0, 0] @ delta.mid[:, :, row, column] @ delta.down[:, :, 0, 0]
            expected[:, :, row, column] = product * 0.5
    assert relative(dense(delta, (5, 4, 3, 3)), expected) < 1e-6


def test_a_kronecker_product_is_blocks_of_the_inner_factor():
    kron = Kron(noise(2, 3), noise(4, 5, seed=1), scale=2.0)
    whole = dense(kron, (8, 15))
    assert torch.allclose(whole[4:8, 5:10], kron.outer[1, 1] * kron.inner * 2.0)


def test_a_decomposed_weight_has_the_lengths_of_its_magnitude():
    weight, direction = noise(6, 4), Delta(noise(2, 4), noise(6, 2, seed=1))
    by_input = changed(weight, Decomposed(direction, torch.full((1, 4), 3.0)), 1.0)
    assert torch.allclose(by_input.norm(dim=0), torch.full((4,), 3.0))
    still = changed(weight, Decomposed(Delta(noise(2, 4), torch.zeros(6, 2)), torch.full((6, 1), 3.0)), 1.0)
    assert torch.allclose(still.norm(dim=1), torch.full((6,), 3.0))


def test_half_the_strength_of_a_decomposed_weight_is_half_the_way():
    weight = noise(6, 4)
    change = Decomposed(Delta(noise(2, 4), noise(6, 2, seed=1)), noise(6, 1, seed=2).abs())
    half, whole = changed(weight, change, 0.5), changed(weight, change, 1.0)
    assert torch.allclose(half, (weight + whole) / 2, atol=1e-6)


def test_a_rotation_keeps_lengths_and_angles_at_full_strength():
    skew = noise(2, 3, 3)
    rotations = torch.linalg.matrix_exp(skew - skew.transpose(1, 2))
    weight = noise(6, 4)
    turned = changed(weight, Rotation(rotations), 1.0)
    for block in (slice(0, 3), slice(3, 6)):
        assert torch.allclose(turned[block].T @ turned[block], weight[block].T @ weight[block], atol=1e-5)
    assert relative(turned, weight) > 0.1


def test_a_changed_weight_keeps_its_form_and_the_base_its_values():
    weight = noise(8, 4, 3, 3).to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
    before = weight.clone()
    made = changed(weight, Delta(weight=noise(8, 4, 3, 3, seed=1)), 0.5)
    assert made.dtype == torch.bfloat16
    assert made.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(weight, before)
