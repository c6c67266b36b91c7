import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from backend.errors import BadFile
from backend.media import read_text
from backend.settings import Settings
from tests.nodes.build import REGISTRY, a_storage, names_of, run

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 5, 4), np.uint8)


@pytest.fixture
def storage(tmp_path):
    made = a_storage(tmp_path)
    Image.fromarray(PIXELS).save(made.input / "rgba.png")
    Image.fromarray(PIXELS[..., :3]).save(made.input / "rgb.png")
    return made


def test_a_loaded_image_and_its_mask(storage):
    image, mask = run("LoadImage", storage, image="rgba.png")
    assert torch.equal(image, torch.from_numpy(PIXELS[None, ..., :3] / np.float32(255)))
    assert torch.equal(mask, 1 - torch.from_numpy(PIXELS[None, ..., 3] / np.float32(255)))
    _, none = run("LoadImage", storage, image="rgb.png")
    assert none.shape == (1, 64, 64)
    assert not none.any()


def test_an_image_may_come_from_the_output_folder(storage):
    (storage.output / "sub").mkdir()
    Image.fromarray(PIXELS).save(storage.output / "sub" / "o.png")
    image, _ = run("LoadImage", storage, image="sub/o.png [output]")
    assert image.shape == (1, 6, 5, 3)


@pytest.mark.parametrize(("channel", "index"), [("red", 0), ("green", 1), ("blue", 2), ("alpha", 3)])
def test_a_mask_is_one_channel_with_alpha_inverted(storage, channel, index):
    mask = run("LoadImageMask", storage, image="rgba.png", channel=channel)
    wanted = torch.from_numpy(PIXELS[None, ..., index] / np.float32(255))
    assert torch.equal(mask, 1 - wanted if channel == "alpha" else wanted)


def test_a_missing_image_is_refused_at_submission_and_at_the_run(storage):
    spec = REGISTRY.find("LoadImage")
    assert spec.validate(image="rgb.png", storage=storage) is True
    assert spec.validate(image=None, storage=storage) is True
    for name in ("none.png", "../rgb.png", "rgb.png [output]", "", 7):
        assert spec.validate(image=name, storage=storage) == f"Invalid image file: {name}"
    with pytest.raises(BadFile, match="Invalid image file"):
        run("LoadImage", storage, image="none.png")


def test_the_fingerprint_is_the_content(storage):
    spec = REGISTRY.find("LoadImageMask")
    before = spec.fingerprint(image="rgb.png", channel="red", storage=storage)
    assert spec.fingerprint(image="rgb.png", channel="red", storage=storage) == before
    Image.fromarray(PIXELS[::-1]).save(storage.input / "rgb.png")
    assert spec.fingerprint(image="rgb.png", channel="red", storage=storage) != before


def test_saved_images_carry_prompt_and_workflow(storage):
    images = torch.rand(2, 4, 6, 3)
    extra = {"workflow": {"nodes": ["ä"]}, "more": 1}
    result = run(
        "SaveImage", storage, images=images, filename_prefix="a/b", prompt={"1": {}}, extra_pnginfo=extra
    )
    assert result.ui == {
        "images": [{"filename": f"b_0000{i}_.png", "subfolder": "a", "type": "output"} for i in (1, 2)]
    }
    path = storage.output / "a" / "b_00002_.png"
    assert np.array_equal(
        np.asarray(Image.open(path)), (images[1].numpy() * np.float32(255)).astype(np.uint8)
    )
    texts = read_text(path)
    assert list(texts) == ["prompt", "workflow", "more"]
    assert {key: json.loads(text) for key, text in texts.items()} == {"prompt": {"1": {}}, **extra}


def test_metadata_can_be_turned_off(storage):
    settings = Settings(disable_metadata=True)
    run(
        "SaveImage",
        storage,
        settings,
        images=torch.rand(1, 4, 4, 3),
        prompt={},
        extra_pnginfo={"workflow": {}},
    )
    assert read_text(storage.output / "ComfyUI_00001_.png") == {}


def test_previews_go_to_the_temp_folder_under_names_of_their_own(storage):
    first = run("PreviewImage", storage, images=torch.rand(1, 4, 4, 3))
    second = run("PreviewImage", storage, images=torch.rand(1, 4, 4, 3))
    assert first.ui["images"][0]["type"] == "temp"
    (one,), (two,) = names_of(first), names_of(second)
    assert one != two
    assert one.startswith("ComfyUI_temp_")
    assert (storage.temp / one).exists()
    assert (storage.temp / two).exists()


def test_pictures_with_transparency_and_views_are_saved_as_they_are(storage):
    images = torch.from_numpy(PIXELS / np.float32(255)).movedim(0, 1)[None]
    run("SaveImage", storage, images=images, filename_prefix="t")
    assert np.array_equal(np.asarray(Image.open(storage.output / "t_00001_.png")), PIXELS.swapaxes(0, 1))


def test_pictures_for_the_websocket_are_plain_png_files():
    result = run("SaveImageWebsocket", images=torch.rand(2, 6, 5, 3))
    assert len(result.pictures) == 2
    assert result.ui is None
    with Image.open(io.BytesIO(result.pictures[0])) as picture:
        assert (picture.format, picture.size, picture.text) == ("PNG", (5, 6), {})


def test_svg_files_carry_the_workflow(storage):
    svg = SimpleNamespace(data=[io.BytesIO(b'<svg width="1"><g/></svg>'), io.BytesIO(b"<svg></svg>")])
    result = run("SaveSVGNode", storage, svg=svg, prompt={"1": {}}, extra_pnginfo={"workflow": {"id": "w"}})
    assert names_of(result) == ["ComfyUI_00001_.svg", "ComfyUI_00002_.svg"]
    text = (storage.output / "svg" / "ComfyUI_00001_.svg").read_text()
    told = text.partition("<![CDATA[")[2].partition("]]>")[0]
    assert json.loads(told) == {"prompt": {"1": {}}, "workflow": {"id": "w"}}
    assert text.startswith('<svg width="1">\n<metadata>')
    assert text.endswith("<g/></svg>")


def test_what_is_no_svg_is_refused(storage):
    with pytest.raises(TypeError, match="svg is a str"):
        run("SaveSVGNode", storage, svg="<svg/>")


def test_a_camera_picture_comes_from_where_the_page_put_it(storage):
    (storage.temp / "webcam").mkdir(parents=True)
    Image.fromarray(PIXELS).save(storage.temp / "webcam" / "1.png")
    assert run("WebcamCapture", storage, image="webcam/1.png [temp]").shape == (1, 6, 5, 3)
