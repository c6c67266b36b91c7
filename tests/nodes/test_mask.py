import pytest
import torch

from tests.nodes.build import a_storage, names_of, run

DOT = torch.zeros(1, 5, 5)
DOT[0, 2, 2] = 1


def test_masks_and_pictures_turn_into_each_other():
    mask = torch.rand(2, 4, 6)
    image = run("MaskToImage", mask=mask)
    assert image.shape == (2, 4, 6, 3)
    assert torch.equal(run("ImageToMask", image=image, channel="green"), mask)


def test_a_channel_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="has 3 channels and no alpha"):
        run("ImageToMask", image=torch.rand(1, 4, 4, 3), channel="alpha")


def test_a_colour_is_found_exactly():
    image = torch.zeros(1, 1, 3, 3)
    image[0, 0, 1] = torch.tensor([1.0, 128 / 255, 0.0])
    image[0, 0, 2] = torch.tensor([1.0, 129 / 255, 0.0])
    assert run("ImageColorToMask", image=image, color=0xFF8000).tolist() == [[[0, 1, 0]]]


@pytest.mark.parametrize(("tapered", "count"), [(True, 5), (False, 9)])
def test_growing_takes_the_neighbours_and_shrinking_gives_them_back(tapered, count):
    grown = run("GrowMask", mask=DOT, expand=1, tapered_corners=tapered)
    assert grown.sum() == count
    assert torch.equal(run("GrowMask", mask=grown, expand=-1, tapered_corners=tapered), DOT)
    assert run("GrowMask", mask=DOT, expand=16384, tapered_corners=tapered).min() == 1


@pytest.mark.parametrize(
    ("operation", "result"),
    [("multiply", 0.24), ("add", 1.0), ("subtract", 0.2), ("and", 0.0), ("or", 1.0), ("xor", 1.0)],
)
def test_masks_are_put_together_where_they_meet(operation, result):
    below, above = torch.full((1, 4, 4), 0.6), torch.full((1, 3, 3), 0.4)
    mixed = run("MaskComposite", destination=below, source=above, x=2, y=3, operation=operation)
    assert mixed[0, 3, 2] == pytest.approx(result)
    assert mixed[0, 2, 3] == pytest.approx(0.6)
    assert below.unique().tolist() == pytest.approx([0.6])


def test_feathering_fades_the_named_edges():
    faded = run("FeatherMask", mask=torch.ones(1, 4, 4), left=2)
    assert faded[0, 0].tolist() == [0.5, 1, 1, 1]


def test_masks_are_cut_inverted_and_cut_off():
    solid = run("SolidMask", value=0.25, width=4, height=3)
    assert run("CropMask", mask=solid, x=2, y=1, width=9, height=9).shape == (1, 2, 2)
    assert run("InvertMask", mask=solid).unique().tolist() == [0.75]
    assert run("ThresholdMask", mask=solid, value=0.25).max() == 0


def test_a_mask_is_shown(tmp_path):
    storage = a_storage(tmp_path)
    (name,) = names_of(run("MaskPreview", storage, mask=DOT))
    assert (storage.temp / name).exists()
