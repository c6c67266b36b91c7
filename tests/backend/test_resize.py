import pytest
import torch

from backend.resize import bislerp, resize


def test_the_centre_crop_keeps_the_middle():
    wide = torch.arange(12.0).reshape(1, 1, 1, 12).expand(1, 1, 4, 12)
    assert resize(wide, 4, 4, "nearest-exact", "center")[0, 0, 0].tolist() == [4, 5, 6, 7]


def test_bislerp_keeps_the_length_of_vectors_where_bilinear_shortens_them():
    across = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).T.reshape(1, 2, 1, 2)  # two perpendicular unit vectors
    sized = bislerp(across, 6, 1)
    assert sized.norm(dim=1).flatten().tolist() == pytest.approx([1.0] * 6)
    assert resize(across, 6, 1, "bilinear").norm(dim=1).min() < 0.8


def test_bislerp_passes_zero_equal_and_opposite_vectors():
    line = torch.tensor([[0.0, 1.0, 1.0, -1.0], [0.0, 0.0, 0.0, 0.0]]).reshape(1, 2, 1, 4)
    sized = bislerp(line, 8, 1)
    assert sized.isfinite().all()
    wanted = [0.0, 0.0957, 0.6929, 1.0, 1.0, 0.5, -0.5, -1.0]  # from zero: share * sin(share * 90 degrees)
    assert sized[0, 0, 0].tolist() == pytest.approx(wanted, abs=1e-4)


def test_lanczos_goes_through_eight_bits():
    sized = resize(torch.rand(2, 3, 20, 16), 8, 10, "lanczos")
    assert sized.shape == (2, 3, 10, 8)
    assert torch.equal((sized * 255).round() / 255, sized)


def test_frames_of_a_video_are_resized_one_by_one():
    video = torch.rand(2, 4, 3, 8, 8)
    sized = resize(video, 12, 16, "bilinear")
    assert sized.shape == (2, 4, 3, 16, 12)
    assert torch.equal(sized[:, :, 1], resize(video[:, :, 1], 12, 16, "bilinear"))


def test_a_size_of_nothing_is_refused():
    with pytest.raises(ValueError, match="Can't resize to 0 x 4"):
        resize(torch.rand(1, 3, 8, 8), 0, 4, "bilinear")
