import pytest
import torch

from backend.types import Latent
from tests.nodes.build import run


def test_a_picture_covers_another_where_the_mask_lets_it():
    mask = torch.tensor([[[1.0, 0.0], [0.0, 0.5]]])
    inputs = {"destination": torch.zeros(2, 3, 3, 3), "source": torch.ones(1, 2, 2, 3), "mask": mask}
    mixed = run("ImageCompositeMasked", **inputs, x=1, y=1)
    assert mixed[1, ..., 0].tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0.5]]
    assert inputs["destination"].max() == 0


def test_what_lies_outside_is_left_out():
    put = {"destination": torch.zeros(1, 3, 3, 3), "source": torch.ones(1, 2, 2, 3)}
    assert run("ImageCompositeMasked", **put, x=2, y=2).sum() == 3
    assert run("ImageCompositeMasked", **put, x=99, y=99).sum() == 0
    assert run("ImageCompositeMasked", **put, x=0, y=0, resize_source=True).min() == 1


def test_missing_alpha_is_opaque():
    mixed = run(
        "ImageCompositeMasked", destination=torch.zeros(1, 2, 2, 4), source=torch.zeros(1, 2, 2, 3), x=0, y=0
    )
    assert mixed[..., 3].min() == 1


def test_latents_are_put_at_places_in_pixels():
    below, above = Latent(torch.zeros(1, 4, 8, 8), batch_index=(3,)), Latent(torch.ones(1, 4, 4, 4))
    plain = run("LatentComposite", samples_to=below, samples_from=above, x=16, y=32, feather=0)
    assert plain.samples[0, 0, 4:, 2:6].min() == 1
    assert plain.samples.sum() == 4 * 16
    assert plain.batch_index == (3,)
    soft = run("LatentComposite", samples_to=below, samples_from=above, x=16, y=32, feather=16)
    assert soft.samples[0, 0, 7].tolist() == [0, 0, 0.5, 1, 1, 0.5, 0, 0]
    masked = run(
        "LatentCompositeMasked", destination=below, source=above, x=16, y=32, mask=torch.zeros(1, 8, 8)
    )
    assert masked.samples.sum() == 0


def test_alpha_is_split_off_and_joined_again():
    image = torch.rand(2, 4, 4, 4)
    colours, mask = run("SplitImageWithAlpha", image=image)
    assert torch.allclose(run("JoinImageWithAlpha", image=colours, alpha=mask), image)
    assert run("SplitImageWithAlpha", image=colours)[1].max() == 0


@pytest.mark.parametrize(
    ("mode", "colour", "alpha"),
    [("SRC", 1.0, 0.5), ("DST", 0.2, 1.0), ("SRC_OVER", 0.6, 1.0), ("DST_IN", 0.2, 0.5),
     ("SRC_OUT", 0.0, 0.0), ("XOR", 0.2, 0.5), ("CLEAR", 0.0, 0.0),
     ("MULTIPLY", 0.2, 0.5), ("ADD", 0.7, 1.0), ("SCREEN", 0.6, 1.0)],
)  # fmt: skip
def test_a_white_half_cover_over_grey(mode, colour, alpha):
    image, mask = run(
        "PorterDuffImageComposite",
        source=torch.ones(1, 2, 2, 3),
        source_alpha=torch.full((1, 2, 2), 0.5),
        destination=torch.full((1, 2, 2, 3), 0.2),
        destination_alpha=torch.zeros(1, 2, 2),
        mode=mode,
    )
    assert image[0, 0, 0, 0] == pytest.approx(colour)
    assert mask[0, 0, 0] == pytest.approx(1 - alpha)


def test_a_grey_source_goes_with_every_channel_of_the_destination_and_an_alpha():
    below, above = torch.zeros(1, 4, 4, 3), torch.full((1, 2, 2, 1), 0.5)
    put = run("ImageCompositeMasked", destination=below, source=above, x=1)
    assert put.shape == (1, 4, 4, 4)
    assert put[0, 0].tolist() == [[0, 0, 0, 1], [0.5] * 4, [0.5] * 4, [0, 0, 0, 1]]
    blended = run("ImageBlend", image1=below, image2=above, blend_factor=1.0, blend_mode="normal")
    assert torch.equal(blended, torch.full((1, 4, 4, 4), 0.5))


def test_a_mask_without_a_batch_becomes_an_alpha():
    joined = run(
        "JoinImageWithAlpha", image=torch.ones(1, 2, 3, 3), alpha=torch.tensor([[1.0, 0.0, 0.0]] * 2)
    )
    assert joined[0, :, :, 3].tolist() == [[0.0, 1.0, 1.0]] * 2
