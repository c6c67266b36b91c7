from pathlib import Path

import pytest
import torch
from torch import Tensor

from backend.errors import BadFile
from backend.models.changes import Change, Decomposed, Delta, changed
from backend.models.dialects import Part, foreign, read_change
from tests.backend.models.conftest import relative


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape) + len(shape)))


def read(tensors: dict[str, Tensor], *shape: int) -> tuple[Change | None, set[str]]:
    used: set[str] = set()
    named = {f"layer.{name}": value for name, value in tensors.items()}
    return read_change(Part("a.safetensors", "layer", named, used), shape), used


def added(tensors: dict[str, Tensor], *shape: int) -> Tensor:
    """What the tensors add to a weight of zeros at strength 1; all of them must be used."""
    change, used = read(tensors, *shape)
    assert change is not None
    assert used == {f"layer.{name}" for name in tensors}
    return changed(torch.zeros(*shape), change, 1.0)


def loha(rank: int, out: int, wide: int) -> dict[str, Tensor]:
    a, b = noise(out, rank), noise(rank, wide)
    return {"hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": a + 1, "hada_w2_b": b - 1}


@pytest.mark.parametrize("rank", [2, 30])
def test_loha_is_the_elementwise_product_of_two_products(rank: int):
    tensors = loha(rank, 40, 24)
    expected = (tensors["hada_w1_a"] @ tensors["hada_w1_b"]) * (tensors["hada_w2_a"] @ tensors["hada_w2_b"])
    got = added(tensors | {"alpha": torch.tensor(3.0)}, 40, 24)
    assert relative(got, expected * 3 / rank) < 1e-5
    change, _ = read(tensors, 40, 24)
    assert isinstance(change, Delta)
    assert change.beside == (rank == 2)


def test_loha_of_a_convolution_may_have_cores():
    names = ("t1", "w1_a", "w1_b", "t2", "w2_a", "w2_b")
    shapes = ((3, 3, 2, 2), (3, 6), (3, 4)) * 2
    tensors = {f"hada_{n}": noise(*s) + i for i, (n, s) in enumerate(zip(names, shapes, strict=True))}

    def whole(n: int) -> Tensor:
        core, a, b = (tensors[f"hada_{name}"] for name in (f"t{n}", f"w{n}_a", f"w{n}_b"))
        return torch.stack([a.T @ core[:, :, i, j] @ b for i in range(2) for j in range(2)], -1)

    got = added(tensors, 6, 4, 2, 2)
    assert relative(got.flatten(2), whole(1) * whole(2)) < 1e-5


def test_lokr_factors_may_be_products_themselves():
    outer, inner = noise(2, 3), noise(4, 5)
    plain = added({"lokr_w1": outer, "lokr_w2": inner}, 8, 15)
    assert torch.allclose(plain, torch.kron(outer, inner))
    a, b = noise(4, 2), noise(2, 5)
    got = added({"lokr_w1": outer, "lokr_w2_a": a, "lokr_w2_b": b, "alpha": torch.tensor(1.0)}, 8, 15)
    assert torch.allclose(got, torch.kron(outer, a @ b) / 2, atol=1e-5)


def test_lokr_of_whole_factors_has_no_rank_and_so_no_alpha():
    tensors = {"lokr_w1": noise(2, 3), "lokr_w2": noise(4, 5)}
    scaled = added(tensors | {"alpha": torch.tensor(0.25)}, 8, 15)
    assert torch.equal(scaled, added(tensors, 8, 15))


def test_lokr_of_a_convolution_may_have_a_core():
    core, a, b, outer = noise(2, 3, 3, 3), noise(2, 4), noise(3, 5), noise(2, 2)
    got = added({"lokr_w1": outer, "lokr_t2": core, "lokr_w2_a": a, "lokr_w2_b": b}, 8, 10, 3, 3)
    inner = torch.einsum("rshw,ro,si->oihw", core, a, b)
    assert torch.allclose(got[4:, :5], outer[1, 0] * inner, atol=1e-5)


@pytest.mark.parametrize("shape", [(6, 1), (1, 4), (6,)])
def test_a_magnitude_makes_any_sum_a_decomposed_one(shape: tuple[int, ...]):
    pair = {"lora_up.weight": noise(6, 2), "lora_down.weight": noise(2, 4)}
    for tensors in (pair, loha(2, 6, 4), {"lokr_w1": noise(2, 2), "lokr_w2": noise(3, 2)}):
        change, _ = read(tensors | {"dora_scale": noise(*shape)}, 6, 4)
        assert isinstance(change, Decomposed)
        assert change.magnitude.shape == ((6, 1) if shape[0] == 6 else (1, 4))


def test_blocks_that_turn_too_far_are_held_back_by_alpha():
    blocks = noise(2, 3, 3)
    weight = noise(6, 4)

    def turn(**more: Tensor) -> float:
        change, _ = read({"oft_blocks": blocks, **more}, 6, 4)
        assert change is not None
        return relative(changed(weight, change, 1.0), weight)

    assert 0 < turn(alpha=torch.tensor(0.01)) < 0.1 < turn()


@pytest.mark.parametrize(
    "tensors",
    [{"hada_w1_a": noise(6, 2)}, {"lokr_w1": noise(2, 2)}, {"lora_up.weight": noise(6, 2)}],
    ids=lambda tensors: next(iter(tensors)),
)
def test_a_set_with_a_tensor_missing_is_refused_by_name(tensors: dict[str, Tensor]):
    with pytest.raises(BadFile, match="has no 'layer"):
        read(tensors, 6, 4)


@pytest.mark.parametrize(
    "tensors",
    [loha(2, 9, 4), {"lokr_w1": noise(5, 2), "lokr_w2": noise(3, 2)}, {"oft_blocks": noise(4, 4, 4)}],
    ids=lambda tensors: next(iter(tensors)),
)
def test_a_change_of_another_size_is_logged_and_left_out(
    tensors: dict[str, Tensor], caplog: pytest.LogCaptureFixture
):
    assert read(tensors, 6, 4)[0] is None
    assert "layer does not fit a layer of shape [6, 4]" in caplog.text


def test_a_rotation_is_not_decomposed_too():
    with pytest.raises(BadFile, match="both rotated and decomposed"):
        read({"oft_blocks": noise(2, 3, 3), "dora_scale": noise(6, 1)}, 6, 4)


def test_kinds_that_no_dialect_has_are_named(tmp_path: Path):
    assert foreign({"x.a1.weight": noise(2, 2)}) == "x.a1.weight"
    assert foreign({"x.oft_blocks": noise(1, 2, 2, 2)}) == "x.oft_blocks"
    assert foreign({"x.oft_blocks": noise(2, 2, 2), "x.lora_up.weight": noise(2, 2)}) is None
