import pytest
import torch

from nodes.image_filters import bayer, gaussian, sharpening
from tests.nodes.build import run


@pytest.mark.parametrize(
    ("mode", "value"),
    [("normal", 0.8), ("multiply", 0.32), ("screen", 0.88), ("overlay", 0.64), ("difference", 0.0),
     ("soft_light", 0.4 + 0.6 * (0.4**0.5 - 0.4))],
)  # fmt: skip
def test_blending_two_greys(mode, value):
    inputs = {"image1": torch.full((1, 2, 2, 3), 0.4), "image2": torch.full((1, 5, 5, 3), 0.8)}
    assert run("ImageBlend", **inputs, blend_factor=1.0, blend_mode=mode)[0, 0, 0, 0] == pytest.approx(
        value, abs=1e-5
    )
    assert run("ImageBlend", **inputs, blend_factor=0.0, blend_mode=mode)[0, 0, 0, 0] == pytest.approx(0.4)


def test_kernels_keep_the_brightness():
    assert gaussian(3, 1.5).sum() == pytest.approx(1.0)
    assert sharpening(3, 1.5, 0.8).sum() == pytest.approx(1.0, abs=1e-5)


def test_blur_smooths_and_sharpening_steepens_an_edge():
    edge = torch.zeros(1, 9, 9, 3)
    edge[:, :, 4:] = 0.5
    blurred = run("ImageBlur", image=edge, blur_radius=2, sigma=1.0)
    assert 0 < blurred[0, 4, 3, 0] < blurred[0, 4, 4, 0] < 0.5
    sharp = run("ImageSharpen", image=blurred, sharpen_radius=2, sigma=1.0, alpha=1.0)
    assert sharp[0, 4, 4, 0] - sharp[0, 4, 3, 0] > blurred[0, 4, 4, 0] - blurred[0, 4, 3, 0]


def test_a_radius_beyond_the_picture_is_refused():
    with pytest.raises(ValueError, match="A radius of 9 is too large for 4 x 4"):
        run("ImageBlur", image=torch.rand(1, 4, 4, 3), blur_radius=9, sigma=1.0)


@pytest.mark.parametrize("dither", ["none", "floyd-steinberg", "bayer-2", "bayer-16"])
def test_few_colours_are_left(dither):
    reduced = run("ImageQuantize", image=torch.rand(1, 16, 16, 3), colors=4, dither=dither)
    assert len(reduced.reshape(-1, 3).unique(dim=0)) <= 4


def test_bayers_matrix_has_every_level_once():
    assert len(set(bayer(4).flatten().tolist())) == 16
    assert bayer(2).tolist() == [[-0.375, 0.125], [0.375, -0.125]]


def test_values_outside_the_range_wrap_before_their_colours_are_counted():
    # ComfyUI 0.3.64 on the same pixels: what a bicubic resize leaves below 0 and above 1
    image = torch.tensor([-0.1, 0.0, 1.0, 1.1]).reshape(1, 1, 4, 1).expand(1, 1, 4, 3)
    reduced = run("ImageQuantize", image=image, colors=256, dither="none")
    assert (reduced[0, 0, :, 0] * 255).round().tolist() == [231, 0, 255, 24]
