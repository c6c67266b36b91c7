import pytest
import torch

from tests.nodes.build import REGISTRY, run

IMAGE = torch.arange(2 * 4 * 6 * 3, dtype=torch.float32).reshape(2, 4, 6, 3) / 144


def test_a_crop_has_at_least_one_pixel():
    assert run("ImageCrop", image=IMAGE, width=3, height=2, x=1, y=1).shape == (2, 2, 3, 3)
    assert run("ImageCrop", image=IMAGE, width=3, height=2, x=99, y=99).shape == (2, 1, 1, 3)


def test_four_quarter_turns_and_two_flips_are_nothing():
    turned = IMAGE
    for _ in range(4):
        turned = run("ImageRotate", image=turned, rotation="90 degrees")
    assert torch.equal(turned, IMAGE)
    assert run("ImageRotate", image=IMAGE, rotation="90 degrees")[0, 0, -1, 0] == IMAGE[0, 0, 0, 0]
    once = run("ImageFlip", image=IMAGE, flip_method="x-axis: vertically")
    assert torch.equal(once[:, 0], IMAGE[:, -1])


def test_batches_are_repeated_cut_and_dealt_out_anew():
    assert run("RepeatImageBatch", image=IMAGE, amount=3).shape[0] == 6
    assert torch.equal(run("ImageFromBatch", image=IMAGE, batch_index=99, length=4), IMAGE[1:])
    dealt = run("RebatchImages", images=[IMAGE, IMAGE[:1]], batch_size=[2])
    assert [len(batch) for batch in dealt] == [2, 1]
    spec = REGISTRY.find("RebatchImages")
    assert spec.input_is_list
    assert spec.outputs[0].is_list


def test_noise_is_seeded_and_stays_in_range():
    noisy = [run("ImageAddNoise", image=IMAGE, seed=s, strength=0.5) for s in (1, 1, 2)]
    assert torch.equal(noisy[0], noisy[1])
    assert not torch.equal(noisy[0], noisy[2])
    assert 0 <= noisy[0].min() <= noisy[0].max() <= 1


def test_sizes_are_told_and_made():
    assert run("GetImageSize", image=IMAGE) == (6, 4, 2)
    sized = run("ImageScaleToMaxDimension", image=IMAGE, upscale_method="area", largest_size=12)
    assert sized.shape == (2, 8, 12, 3)
    sized = run("ImageScaleToTotalPixels", image=IMAGE, upscale_method="bilinear", megapixels=0.01)
    assert sized.shape[1] * sized.shape[2] == pytest.approx(10485, rel=0.01)


def test_padding_keeps_the_whole_picture_in_the_middle():
    padded = run(
        "ResizeAndPadImage",
        image=IMAGE,
        target_width=6,
        target_height=8,
        padding_color="white",
        interpolation="area",
    )
    assert torch.equal(padded[:, 2:6], IMAGE)
    assert padded[:, :2].min() == 1


def test_outpainting_adds_grey_and_a_mask_that_fades_inwards():
    image = torch.zeros(1, 20, 20, 3)
    padded, mask = run("ImagePadForOutpaint", image=image, left=8, feathering=4)
    assert padded.shape == (1, 20, 28, 3)
    assert padded[0, 0, :9, 0].tolist() == [0.5] * 8 + [0]
    assert mask[0, 10, 7:13].tolist() == [1, 1, 0.5625, 0.25, 0.0625, 0]


@pytest.mark.parametrize(("direction", "shape"), [("right", (2, 4, 12, 3)), ("up", (2, 8, 6, 3))])
def test_stitching_puts_side_by_side(direction, shape):
    inputs = {"image1": IMAGE, "direction": direction, "match_image_size": False}
    stitched = run("ImageStitch", **inputs, image2=IMAGE[:1])
    assert stitched.shape == shape
    assert torch.equal(stitched[:, :4, :6] if direction == "right" else stitched[:, 4:], IMAGE)
    assert run("ImageStitch", **inputs) is IMAGE


def test_the_gap_has_its_colour():
    stitched = run("ImageStitch", image1=IMAGE, image2=IMAGE, spacing_width=2, spacing_color="red")
    assert stitched.shape == (2, 4, 14, 3)
    assert stitched[0, 0, 7].tolist() == [1, 0, 0]
