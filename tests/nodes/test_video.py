import json
from fractions import Fraction

import pytest
import torch

from backend.errors import BadFile
from backend.settings import Settings
from tests.nodes.build import a_storage, names_of, run

av = pytest.importorskip("av", reason="the extra `video` is not installed")
WORKFLOW = {"prompt": {"1": {}}, "extra_pnginfo": {"workflow": {"id": "w"}}}


@pytest.fixture
def storage(tmp_path):
    return a_storage(tmp_path)


@pytest.fixture
def images():
    """Six pictures, each of one grey."""
    return torch.linspace(0, 1, 6).reshape(6, 1, 1, 1).expand(6, 32, 48, 3)


def tags(path) -> dict[str, str]:
    with av.open(str(path)) as container:
        return dict(container.metadata)


def test_a_video_of_pictures_comes_back_as_pictures(storage, images):
    video = run("CreateVideo", images=images, fps=12.0)
    result = run("SaveVideo", storage, video=video, **WORKFLOW)
    assert names_of(result) == ["ComfyUI_00001_.mp4"]
    assert result.ui["animated"] == (True,)
    path = storage.output / "video" / "ComfyUI_00001_.mp4"
    assert json.loads(tags(path)["workflow"]) == {"id": "w"}
    assert json.loads(tags(path)["prompt"]) == {"1": {}}
    loaded = run("LoadVideo", storage, file="video/ComfyUI_00001_.mp4 [output]")
    again, audio, fps = run("GetVideoComponents", video=loaded)
    assert (again.shape, audio, fps) == (images.shape, None, 12.0)
    assert (again - images).abs().max() < 0.05
    assert loaded.get_dimensions() == (48, 32)
    assert loaded.get_duration() == pytest.approx(0.5)


def test_a_sound_is_as_long_as_the_pictures(storage, images):
    tone = torch.sin(torch.arange(44100) / 20).expand(1, 2, -1)
    video = run("CreateVideo", images=images, fps=12.0, audio={"waveform": tone, "sample_rate": 44100})
    run("SaveVideo", storage, video=video)
    loaded = run("LoadVideo", storage, file="video/ComfyUI_00001_.mp4 [output]")
    _, audio, _ = run("GetVideoComponents", video=loaded)
    assert audio["sample_rate"] == 44100
    assert audio["waveform"].shape[:2] == (1, 2)
    assert audio["waveform"].shape[2] == pytest.approx(22050, rel=0.1)


def test_a_loaded_video_is_saved_without_being_encoded_again(storage, images):
    run("SaveVideo", storage, video=run("CreateVideo", images=images, fps=12.0), filename_prefix="a")
    loaded = run("LoadVideo", storage, file="a_00001_.mp4 [output]")
    run("SaveVideo", storage, video=loaded, filename_prefix="b", **WORKFLOW)
    again = run("LoadVideo", storage, file="b_00001_.mp4 [output]")
    assert torch.equal(loaded.get_components().images, again.get_components().images)
    assert json.loads(tags(storage.output / "b_00001_.mp4")["workflow"]) == {"id": "w"}


@pytest.mark.parametrize("codec", ["vp9", "av1"])
def test_webm_files(storage, images, codec):
    result = run("SaveWEBM", storage, images=images, codec=codec, fps=24.0, crf=20.0, **WORKFLOW)
    path = storage.output / names_of(result)[0]
    told = {name.lower(): value for name, value in tags(path).items()}
    assert json.loads(told["workflow"]) == {"id": "w"}
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    assert (len(frames), frames[0].width, frames[0].height) == (6, 48, 32)


def test_no_workflow_is_written_where_metadata_are_off(storage, images):
    settings = Settings(base_directory=storage.base, disable_metadata=True)
    run("SaveVideo", storage, settings, video=run("CreateVideo", images=images), **WORKFLOW)
    assert "workflow" not in tags(storage.output / "video" / "ComfyUI_00001_.mp4")


def test_a_failure_leaves_no_file_and_says_why(storage):
    video = run("CreateVideo", images=torch.zeros(2, 31, 48, 3))
    with pytest.raises(ValueError, match="not 48 x 31"):
        run("SaveVideo", storage, video=video)
    assert not list((storage.output / "video").iterdir())
    (storage.input / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(BadFile, match="can't be read as a video"):
        run("LoadVideo", storage, file="broken.mp4").get_components()


def test_a_changed_file_is_another_video(storage, images):
    from tests.nodes.build import REGISTRY

    spec = REGISTRY.find("LoadVideo")
    (storage.input / "v.mp4").write_bytes(b"x")
    assert spec.fingerprint(file="v.mp4", storage=storage) == spec.fingerprint(file="v.mp4", storage=storage)
    assert spec.validate(file="absent.mp4", storage=storage) == "Invalid video file: absent.mp4"


def test_rates_are_exact():
    video = run("CreateVideo", images=torch.zeros(1, 2, 2, 3), fps=29.97)
    assert video.components.frame_rate == Fraction(29.97)
