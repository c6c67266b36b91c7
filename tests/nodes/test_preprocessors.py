import pytest
import torch

from tests.nodes.build import run


def square() -> torch.Tensor:
    """White on black, from 10 to 29 in both directions."""
    image = torch.zeros(1, 40, 40, 3)
    image[:, 10:30, 10:30] = 1
    return image


def test_edges_are_thin_lines_around_a_shape():
    edges = run("Canny", image=square(), low_threshold=0.4, high_threshold=0.8)
    assert edges.shape == (1, 40, 40, 3)
    assert set(edges.unique().tolist()) == {0.0, 1.0}
    assert edges[0, 20, :, 0].sum() == 2  # the left and the right edge
    assert not edges[0, 15:25, 15:25].any()


def test_a_weak_edge_counts_only_where_it_touches_a_strong_one():
    ramp = torch.zeros(1, 40, 40, 3)
    ramp[:, :, 20:] = torch.linspace(0.15, 1, 40)[:, None, None]  # one long edge, weak at its upper end
    alone = ramp.clone()
    alone[:, 10:] = ramp[:, 9:10]  # the weak end alone
    whole = run("Canny", image=ramp, low_threshold=0.3, high_threshold=0.99)
    assert whole[0, 5, :, 0].sum() == 1
    assert not run("Canny", image=alone, low_threshold=0.3, high_threshold=0.99)[0, 5].any()


def test_thresholds_and_channels_that_make_no_sense_are_named():
    with pytest.raises(ValueError, match="exchange them"):
        run("Canny", image=square(), low_threshold=0.8, high_threshold=0.4)
    with pytest.raises(ValueError, match="not 4"):
        run("Canny", image=torch.zeros(1, 8, 8, 4))


@pytest.mark.parametrize("size", [3, 4])
def test_shapes_grow_and_shrink_by_a_square(size):
    white = {
        operation: int(run("Morphology", image=square(), operation=operation, kernel_size=size)[..., 0].sum())
        for operation in ("dilate", "erode", "open", "close", "gradient", "top_hat", "bottom_hat")
    }
    grown, shrunk = (20 + size - 1) ** 2, (20 - size + 1) ** 2
    assert white == {
        "dilate": grown,
        "erode": shrunk,
        "open": 400,
        "close": 400,
        "gradient": grown - shrunk,
        "top_hat": 0,
        "bottom_hat": 0,
    }


def test_colours_survive_the_way_through_yuv():
    image = torch.rand(2, 5, 7, 3)
    y, u, v = run("ImageRGBToYUV", image=image)
    assert y.shape == image.shape
    assert torch.equal(y[..., 0], y[..., 2])
    assert torch.allclose(run("ImageYUVToRGB", Y=y, U=u, V=v), image, atol=1e-6)
    grey = torch.full((1, 2, 2, 3), 0.25)
    assert run("ImageRGBToYUV", image=grey)[1].eq(0.5).all()
