import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from backend.models.doubling import doubled
from tests.backend.models.conftest import relative

SIZES = st.integers(1, 9)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def ordered(value: Tensor, last: bool) -> Tensor:
    return value.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


@given(SIZES, SIZES, SIZES, SIZES, SIZES, st.booleans(), st.booleans())
@settings(max_examples=40)
def test_doubled_is_a_convolution_of_the_doubled_picture(
    rows: int, inner: int, out: int, height: int, width: int, last: bool, biased: bool
):
    x, weight = ordered(noise(rows, inner, height, width), last), ordered(noise(out, inner, 3, 3), last)
    bias = noise(out) if biased else None
    larger = F.interpolate(x.double(), scale_factor=2.0, mode="nearest")
    expected = F.conv2d(larger, weight.double(), None if bias is None else bias.double(), padding=1)
    assert relative(doubled(x, weight, bias).double(), expected) < 1e-6


def test_doubled_in_pieces_is_the_same():
    for shape in ((3, 5, 60, 50), (7, 5, 20, 30), (1, 5, 3, 4000)):
        x, weight = noise(*shape), noise(4, 5, 3, 3)
        larger = F.interpolate(x.double(), scale_factor=2.0, mode="nearest")
        expected = F.conv2d(larger, weight.double(), padding=1)
        assert relative(doubled(x, weight, None).double(), expected) < 1e-6
