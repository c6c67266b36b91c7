import pytest
import torch

from tests.nodes.build import run


def test_an_empty_image_has_one_colour():
    image = run("EmptyImage", width=5, height=3, batch_size=2, color=0xFF8000)
    assert image.shape == (2, 3, 5, 3)
    assert image.dtype == torch.float32
    assert image[1, 2, 4].tolist() == pytest.approx([1.0, 128 / 255, 0.0])
    assert image.is_contiguous()


def test_inverting_twice_is_doing_nothing():
    image = torch.rand(1, 4, 4, 3)
    assert torch.allclose(run("ImageInvert", image=run("ImageInvert", image=image)), image)


@pytest.mark.parametrize(
    ("width", "height", "shape"), [(10, 6, (6, 10)), (0, 8, (8, 16)), (4, 0, (2, 4)), (0, 0, (4, 8))]
)
def test_scaling_fills_in_a_missing_side(width, height, shape):
    sized = run(
        "ImageScale",
        image=torch.rand(2, 4, 8, 3),
        upscale_method="area",
        width=width,
        height=height,
        crop="disabled",
    )
    assert sized.shape == (2, *shape, 3)


def test_scaling_by_a_factor_rounds():
    sized = run("ImageScaleBy", image=torch.rand(1, 5, 7, 3), upscale_method="bicubic", scale_by=1.5)
    assert sized.shape == (1, 8, 10, 3)


def test_a_batch_takes_the_size_of_the_first():
    joined = run("ImageBatch", image1=torch.zeros(1, 4, 8, 3), image2=torch.ones(2, 10, 10, 3))
    assert joined.shape == (3, 4, 8, 3)
    assert joined[:, 0, 0, 0].tolist() == [0, 1, 1]
