import pytest
import torch

from backend.models.families.sd15 import LATENT
from backend.models.preview import latent_to_rgb


def test_each_latent_pixel_has_its_colour():
    latent = torch.zeros(4, 3, 2)
    latent[0, 1, 0] = 1.0
    image = latent_to_rgb(latent, LATENT)
    assert image.shape == (3, 2, 3)
    assert image.dtype is torch.uint8
    assert image[0, 0].tolist() == [127, 127, 127]
    assert image[1, 0].tolist() == [172, 156, 168]  # (1 + 0.3512, 1 + 0.2297, 1 + 0.3227) * 127.5


def test_colours_stay_in_range():
    assert latent_to_rgb(torch.full((4, 1, 1), 1e6), LATENT).unique().tolist() == [255]
    assert latent_to_rgb(torch.full((4, 1, 1), -1e6), LATENT).unique().tolist() == [0]


def test_a_latent_of_other_channels_is_refused():
    with pytest.raises(ValueError, match="16 channels"):
        latent_to_rgb(torch.zeros(16, 2, 2), LATENT)
