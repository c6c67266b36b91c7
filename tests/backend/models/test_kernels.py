import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from backend.models.kernels import convolution, linear, pointwise
from tests.backend.models.conftest import relative

SIZES = st.integers(1, 9)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@given(SIZES, SIZES, SIZES, SIZES, st.booleans())
@settings(max_examples=40)
def test_a_product_is_torchs_own(rows: int, places: int, wide: int, out: int, biased: bool):
    x, weight, bias = noise(rows, places, wide), noise(out, wide), noise(out) if biased else None
    expected = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    assert torch.allclose(linear(x, weight, bias).double(), expected, atol=1e-5)
    parts = x[:, ::2].transpose(0, 1)
    assert torch.allclose(linear(parts, weight, bias), F.linear(parts, weight, bias), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_formats_are_left_to_torch(dtype: torch.dtype):
    x, weight = noise(3, 8).to(dtype), noise(5, 8).to(dtype)
    assert torch.equal(linear(x, weight, None), F.linear(x, weight))


def test_where_a_derivative_is_wanted_there_is_one():
    weight = noise(5, 8).requires_grad_()
    linear(noise(3, 8), weight, None).sum().backward()
    assert weight.grad is not None


def test_no_rows_give_no_rows():
    assert linear(noise(0, 8), noise(5, 8), None).shape == (0, 5)


@given(SIZES, SIZES, SIZES, SIZES, SIZES, st.booleans())
@settings(max_examples=40)
def test_a_pointwise_convolution_is_torchs_own(
    rows: int, inner: int, out: int, height: int, width: int, last: bool
):
    x, weight, bias = noise(rows, inner, height, width), noise(out, inner, 1, 1), noise(out)
    given = x.contiguous(memory_format=torch.channels_last) if last else x
    assert torch.allclose(pointwise(given, weight, bias), F.conv2d(x, weight, bias), atol=1e-5)


@given(SIZES, SIZES, SIZES, st.integers(3, 20), st.integers(1, 3), st.integers(0, 1), st.booleans())
@settings(max_examples=60)
def test_a_convolution_is_torchs_own_however_many_its_places(
    rows: int, inner: int, out: int, side: int, kernel: int, padding: int, last: bool
):
    x, weight, bias = noise(rows, inner, side, side + 1), noise(out, inner, kernel, kernel), noise(out)
    order = torch.channels_last if last else torch.contiguous_format
    for stride in ((1, 1), (2, 2), (2, 1)):
        given = (x.contiguous(memory_format=order), weight.contiguous(memory_format=order))
        got = convolution(*given, bias, stride, (padding, padding))
        expected = F.conv2d(x.double(), weight.double(), bias.double(), stride, padding)
        assert relative(got.double(), expected) < 1e-5
