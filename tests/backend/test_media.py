import io
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, PngImagePlugin

from backend.errors import BadFile
from backend.media import (
    Animation,
    encode_apng,
    encode_latent,
    encode_lossy,
    encode_png,
    encode_webp,
    read_channel,
    read_latent,
    read_picture,
    read_text,
    resize_lanczos,
    to_floats,
    to_pixels,
    write_file,
)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@given(
    st.integers(1, 4).flatmap(
        lambda c: arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(c)))
    )
)
def test_a_png_holds_the_pixels_it_was_given(pixels):
    read = np.asarray(Image.open(io.BytesIO(encode_png(pixels))))
    assert np.array_equal(read.reshape(pixels.shape), pixels)


def test_a_large_png_is_read_back_by_a_strict_reader(tmp_path):
    pixels = noise(300, 257, 3)
    (tmp_path / "a.png").write_bytes(encode_png(pixels, {"prompt": "{}"}))
    Image.open(tmp_path / "a.png").verify()  # checks every chunk's checksum
    assert np.array_equal(read_picture(tmp_path / "a.png").rgb[0], pixels)


@given(
    st.dictionaries(
        st.sampled_from(["prompt", "workflow"]),
        st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",))),
    )
)
def test_texts_come_back_as_they_were(text):
    file = PngImagePlugin.PngImageFile(io.BytesIO(encode_png(noise(2, 2, 3), text)))
    assert {k: str(v) for k, v in file.text.items()} == text


def test_ascii_texts_are_plain_text_chunks_before_the_pixels():
    data = encode_png(noise(2, 2, 3), {"prompt": '{"1": 2}', "workflow": "x"})
    chunks, at = [], 8
    while at < len(data):
        length = struct.unpack(">I", data[at : at + 4])[0]
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    assert [kind for kind, _ in chunks] == [b"IHDR", b"tEXt", b"tEXt", b"IDAT", b"IEND"]
    assert chunks[1][1] == b'prompt\0{"1": 2}'


@pytest.mark.parametrize("shape", [(2, 2, 5), (0, 2, 3), (2,)])
def test_what_is_no_picture_is_not_encoded(shape):
    with pytest.raises(ValueError, match="A PNG holds"):
        encode_png(np.zeros(shape, np.uint8))


def test_values_are_cut_off_and_clipped():
    values = np.array([-1.0, 0.0, 0.5, 254.99 / 255, 1.0, 7.0], np.float32)
    assert to_pixels(values).tolist() == [0, 0, 127, 254, 255, 255]


def test_every_byte_survives_the_way_through_floats():
    every = np.arange(256, dtype=np.uint8)
    assert np.array_equal(to_pixels(to_floats(every)), every)


# -- reading


def saved(tmp_path, image: Image.Image, name: str, **options: object):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def test_alpha_is_read_beside_the_colours(tmp_path):
    rgba = noise(5, 4, 4)
    picture = read_picture(saved(tmp_path, Image.fromarray(rgba), "a.png"))
    assert np.array_equal(picture.rgb[0], rgba[..., :3])
    assert np.array_equal(picture.alpha[0], rgba[..., 3])
    assert read_picture(saved(tmp_path, Image.fromarray(rgba[..., :3]), "b.png")).alpha is None


def test_a_transparent_palette_has_alpha(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    picture = read_picture(saved(tmp_path, image, "p.png", transparency=1))
    assert picture.rgb[0].tolist() == [[[10, 20, 30], [40, 50, 60]]]
    assert picture.alpha[0].tolist() == [[255, 0]]


def test_the_camera_orientation_is_applied(tmp_path):
    image = Image.new("RGB", (3, 2))
    image.putpixel((0, 0), (255, 0, 0))
    exif = image.getexif()
    exif[0x0112] = 6  # a quarter turn clockwise
    picture = read_picture(saved(tmp_path, image, "r.png", exif=exif))
    assert picture.rgb.shape == (1, 3, 2, 3)
    assert picture.rgb[0, 0, 1].tolist() == [255, 0, 0]


def test_frames_become_a_batch(tmp_path):
    frames = [Image.new("RGB", (4, 3), (60 * i, 0, 0)) for i in range(3)]
    path = saved(tmp_path, frames[0], "f.webp", save_all=True, append_images=frames[1:], lossless=True)
    assert read_picture(path).rgb[:, 0, 0, 0].tolist() == [0, 60, 120]


def test_sixteen_bit_greys_are_brought_to_eight(tmp_path):
    deep = Image.fromarray(np.array([[0, 32768, 65535]], np.int32), "I")
    assert read_picture(saved(tmp_path, deep, "deep.tiff")).rgb[0, 0, :, 0].tolist() == [0, 128, 255]


def test_one_channel_is_read(tmp_path):
    rgba = noise(3, 3, 4)
    path = saved(tmp_path, Image.fromarray(rgba), "a.png")
    for index, channel in enumerate("RGBA"):
        assert np.array_equal(read_channel(path, channel), rgba[..., index])
    grey = saved(tmp_path, Image.fromarray(rgba[..., 0]), "g.png")
    assert read_channel(grey, "A").min() == 255


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow says it of a TIFF before it gives up
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_picture_cut_anywhere_is_refused_by_name(tmp_path, format):
    out = io.BytesIO()
    Image.fromarray(noise(40, 40, 3)).save(out, format)
    whole = out.getvalue()
    for cut in (0, 1, 7, 20, 33, len(whole) // 3, len(whole) // 2):
        path = tmp_path / "cut.img"
        path.write_bytes(whole[:cut])
        with pytest.raises(
            BadFile, match=r"cut.img: Invalid image file: it is damaged, truncated, or no picture"
        ):
            read_picture(path)


def test_a_missing_picture_is_refused_by_name(tmp_path):
    with pytest.raises(BadFile, match="Invalid image file: there is no such file"):
        read_picture(tmp_path / "none.png")


def test_texts_of_files_by_other_programs_are_read(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", "x" * 5000, zip=True)
    assert read_text(saved(tmp_path, Image.new("L", (1, 1)), "t.png", pnginfo=info)) == {
        "workflow": "x" * 5000
    }
    assert read_text(saved(tmp_path, Image.new("L", (1, 1)), "t.jpg")) == {}


# -- other formats


@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
def test_lossy_pictures_keep_their_size(format):
    file = Image.open(io.BytesIO(encode_lossy(noise(8, 6, 3), format)))
    assert (file.format, file.size) == (format, (6, 8))


def test_animations_play_at_their_rate_and_carry_the_workflow(tmp_path):
    frames = [np.full((4, 4, 3), 80 * i, np.uint8) for i in range(3)]
    text = {"prompt": '{"1":1}', "workflow": "{}"}
    webp = Image.open(io.BytesIO(encode_webp(frames, Animation(fps=10), text)))
    assert (webp.n_frames, webp.getexif()[0x0110], webp.getexif()[0x010F]) == (
        3,
        'prompt:{"1":1}',
        "workflow:{}",
    )
    webp.load()
    assert webp.info["duration"] == 100
    data = encode_apng(frames, Animation(fps=10), text)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert b'comfprompt\0{"1":1}' in data


def test_lanczos_keeps_the_channels():
    assert resize_lanczos(noise(8, 8, 3), 4, 6).shape == (6, 4, 3)
    assert resize_lanczos(noise(8, 8, 1), 4, 6).shape == (6, 4, 1)


# -- latents


def test_a_latent_file_gives_back_the_latent(tmp_path):
    samples = np.random.default_rng(0).normal(size=(2, 4, 3, 5)).astype(np.float32)
    (tmp_path / "a.latent").write_bytes(encode_latent(samples, {"prompt": "{}"}))
    assert np.array_equal(read_latent(tmp_path / "a.latent"), samples)


def test_an_old_latent_file_is_in_scaled_units(tmp_path):
    from safetensors.numpy import save_file

    save_file({"latent_tensor": np.full((1, 4, 1, 1), 0.18215, np.float32)}, tmp_path / "old.latent")
    assert read_latent(tmp_path / "old.latent") == pytest.approx(1.0)


@pytest.mark.parametrize(
    "content", [b"", b"not a latent at all", encode_latent(np.zeros((1, 4, 2, 2), np.float32))[:50]]
)
def test_a_damaged_latent_is_refused_by_name(tmp_path, content):
    (tmp_path / "bad.latent").write_bytes(content)
    with pytest.raises(BadFile, match=r"bad\.latent: Invalid latent file"):
        read_latent(tmp_path / "bad.latent")


def test_a_file_is_written_whole_in_place_of_what_was_there(tmp_path):
    (tmp_path / "a.png").write_bytes(b"an older and longer file")
    write_file(tmp_path, "a.png", b"new")
    write_file(tmp_path, "empty.png", b"")
    assert (tmp_path / "a.png").read_bytes() == b"new"
    assert (tmp_path / "empty.png").read_bytes() == b""


def test_a_file_in_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone.a\.png"):
        write_file(tmp_path / "gone", "a.png", b"new")
