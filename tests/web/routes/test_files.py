import asyncio
import gc
import gzip
import io
import json
import os
import struct
import zlib

import pytest
from aiohttp import FormData
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from yarl import URL

from tests.web.conftest import House, recorded


def a_png(size=(8, 6), mode="RGB", colour=(10, 20, 30), **texts: str) -> bytes:
    info = PngInfo()
    for name, text in texts.items():
        info.add_text(name, text)
    target = io.BytesIO()
    Image.new(mode, size, colour).save(target, "PNG", pnginfo=info)
    return target.getvalue()


def form(content: bytes, filename: str, **fields: str) -> FormData:
    data = FormData(quote_fields=False)  # as browsers and ComfyUI's clients send names
    data.add_field("image", content, filename=filename, content_type="image/png")
    for name, value in fields.items():
        data.add_field(name, value)
    return data


async def upload(house: House, content: bytes, filename: str, path: str = "/upload/image", **fields: str):
    return await house.client.post(path, data=form(content, filename, **fields))


async def view(house: House, **query: str):
    return await house.client.get("/view", params=query)


def picture(body: bytes) -> Image.Image:
    return Image.open(io.BytesIO(body))


async def test_uploads_and_views_answer_as_recorded(house: House):
    exchange = recorded("upload_and_view")
    contents = {
        "A": a_png(mode="RGBA", colour=(1, 2, 3, 99)),
        "other bytes": a_png(mode="RGBA", colour=(9, 9, 9, 9)),
    }
    for case in exchange["uploads"]:
        content = contents[case["content"]]
        reply = await upload(house, content, case["filename"], case["path"], **case["fields"])
        assert reply.status == case["status"], case
        body = await reply.text()
        assert (json.loads(body) if body else "") == case["response"], case
    for case in exchange["views"]:
        reply = await house.client.get(URL(case["path"].replace(" ", "%20"), encoded=True))
        assert reply.status == case["status"], case
        if reply.status == 200:
            assert reply.headers["Content-Type"] == case["content_type"], case
            assert reply.headers["Content-Disposition"] == case["content_disposition"], case
        assert (await reply.read())[:4].hex() == case["file_magic_hex"], case


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"filename": "../secret.png"}, 400),
        ({"filename": "/etc/passwd"}, 400),
        ({"filename": "a/../../secret.png"}, 400),
        ({"filename": "secret.png", "subfolder": ".."}, 403),
        ({"filename": "secret.png", "subfolder": "/"}, 403),
        ({"filename": "secret.png", "subfolder": "sub/../.."}, 403),
        ({"filename": "secret.png\0"}, 403),
        ({"filename": "secret.png [input]", "subfolder": ".."}, 403),
        ({"filename": "link.png", "type": "input"}, 403),
    ],
)
async def test_view_does_not_leave_its_folder(house: House, query: dict, status: int):
    secret = house.storage.base / "secret.png"
    secret.write_bytes(a_png())
    (house.storage.input / "link.png").symlink_to(secret)
    assert (await view(house, **query)).status == status


@pytest.mark.parametrize(
    ("filename", "fields"),
    [
        ("../x.png", {}),
        ("a/../../x.png", {}),
        ("x.png", {"subfolder": "../.."}),
        ("x.png", {"subfolder": "/tmp"}),
        ("..", {}),
        (".", {}),
        ("", {}),
        ("x.png", {"type": "user"}),
    ],
)
async def test_an_upload_does_not_leave_its_folder(house: House, filename: str, fields: dict):
    before = sorted(house.storage.base.rglob("*"))
    for path in ("/upload/image", "/upload/mask"):
        reference = {"original_ref": json.dumps({"filename": "a.png"})}
        reply = await upload(house, a_png(), filename, path, **fields, **reference)
        assert reply.status == 400
    assert sorted(house.storage.base.rglob("*")) == before


async def test_an_absolute_name_lands_inside_the_folder(house: House):
    reply = await upload(house, a_png(), "/tmp/x.png")
    assert await reply.json() == {"name": "tmp/x.png", "subfolder": "", "type": "input"}
    assert (house.storage.input / "tmp" / "x.png").is_file()


async def test_an_upload_without_an_image_is_400(house: House):
    data = FormData({"type": "input"})
    data.add_field("other", b"x", filename="a.png")
    assert (await house.client.post("/upload/image", data=data)).status == 400
    assert (await house.client.post("/upload/image", data=b"no form")).status == 400


async def test_the_suffix_in_a_name_wins_over_the_type(house: House):
    await upload(house, a_png(), "a.png")
    assert (await view(house, filename="a.png [input]", type="output")).status == 200


async def test_a_directory_in_an_uploads_name_is_kept(house: House):
    reply = await upload(house, a_png(), "pasted/x.png")
    assert await reply.json() == {"name": "pasted/x.png", "subfolder": "", "type": "input"}
    assert (house.storage.input / "pasted" / "x.png").is_file()


async def test_simultaneous_uploads_of_one_name_all_survive(house: House):
    contents = [a_png(colour=(i, 0, 0)) for i in range(8)]
    replies = await asyncio.gather(*(upload(house, c, "a.png") for c in contents))
    names = [(await r.json())["name"] for r in replies]
    assert len(set(names)) == 8
    assert {(house.storage.input / n).read_bytes() for n in names} == set(contents)


async def test_pages_and_scripts_are_never_shown_as_such(house: House):
    for name in ("a.html", "a.xhtml", "a.js", "a.css", "a.svg", "a.unknown"):
        (house.storage.output / name).write_text("<script>alert(1)</script>")
        assert (await view(house, filename=name)).content_type == "application/octet-stream", name


async def test_a_part_of_a_file_can_be_asked_for(house: House):
    (house.storage.output / "a.bin").write_bytes(bytes(range(10)))
    url = "/view?filename=a.bin"
    part = await house.client.get(url, headers={"Range": "bytes=2-4"})
    assert (part.status, await part.read()) == (206, b"\x02\x03\x04")
    whole = await house.client.get(url)
    again = await house.client.get(url, headers={"If-None-Match": whole.headers["ETag"]})
    assert again.status == 304


async def test_channels_show_colours_and_alpha(house: House):
    await upload(house, a_png(mode="RGBA", colour=(10, 20, 30, 40)), "a.png")
    await upload(house, a_png(), "opaque.png")
    rgb = picture(await (await view(house, filename="a.png", type="input", channel="rgb")).read())
    alpha = picture(await (await view(house, filename="a.png", type="input", channel="a")).read())
    opaque = picture(await (await view(house, filename="opaque.png", type="input", channel="a")).read())
    assert (rgb.mode, rgb.getpixel((0, 0))) == ("RGB", (10, 20, 30))
    assert (alpha.mode, alpha.getpixel((0, 0))) == ("RGBA", (0, 0, 0, 40))
    assert opaque.getpixel((0, 0)) == (0, 0, 0, 255)


async def test_a_preview_of_no_picture_says_so(house: House):
    (house.storage.output / "a.txt").write_text("text")
    reply = await view(house, filename="a.txt", preview="webp")
    assert reply.status == 400
    assert "a.txt" in await reply.text()


async def test_a_mask_is_joined_to_its_picture_and_keeps_its_texts(house: House):
    await upload(house, a_png(workflow='{"id": 1}'), "a.png")
    mask = a_png(mode="RGBA", colour=(0, 0, 0, 77))
    reference = json.dumps({"filename": "a.png", "type": "input"})
    reply = await upload(house, mask, "m.png", "/upload/mask", original_ref=reference)
    assert await reply.json() == {"name": "m.png", "subfolder": "", "type": "input"}
    joined = Image.open(house.storage.input / "m.png")
    assert (joined.getpixel((0, 0)), joined.text) == ((10, 20, 30, 77), {"workflow": '{"id": 1}'})


async def test_a_mask_of_another_size_is_refused(house: House):
    await upload(house, a_png(), "a.png")
    reference = json.dumps({"filename": "a.png", "type": "input"})
    reply = await upload(
        house, a_png(size=(4, 4), mode="RGBA"), "m.png", "/upload/mask", original_ref=reference
    )
    assert reply.status == 400
    assert "4x4" in await reply.text()


@pytest.mark.parametrize("reference", ["{", "[]", '{"filename": 1}', '{"filename": "a.png", "type": "home"}'])
async def test_a_bad_reference_to_the_original_is_400(house: House, reference: str):
    assert (await upload(house, a_png(), "m.png", "/upload/mask", original_ref=reference)).status == 400


async def test_a_mask_without_its_original_saves_nothing(house: House):
    reference = json.dumps({"filename": "absent.png"})
    assert (await upload(house, a_png(), "m.png", "/upload/mask", original_ref=reference)).status == 200
    assert not (house.storage.input / "m.png").exists()


async def test_folders_are_listed_newest_first_without_hidden_files(house: House):
    for age, name in enumerate(["new.png", "old.png", ".hidden"]):
        (house.storage.input / name).write_bytes(b"x")
        os.utime(house.storage.input / name, (1000 - age, 1000 - age))
    (house.storage.input / "folder").mkdir()
    assert await house.json("/internal/files/input") == ["new.png", "old.png"]
    assert (await house.client.get("/internal/files/user")).status == 400


@pytest.mark.parametrize("hashed", ["md5", "sha1", "sha256", "sha512"])
async def test_the_same_content_is_stored_once_whatever_hash_tells(open_house, hashed: str):
    house = await open_house(upload_hash=hashed)
    names = [
        (await (await upload(house, content, "a.bin")).json())["name"] for content in (b"12", b"34", b"34")
    ]
    assert names == ["a.bin", "a (1).bin", "a (1).bin"]
    assert sorted(os.listdir(house.storage.input)) == ["a (1).bin", "a.bin"]


async def test_an_upload_whose_name_is_too_long_is_400(house: House):
    assert (await upload(house, b"1", "x" * 300 + ".png")).status == 400


def a_bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it has so many pixels."""
    head = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b""))
    packed = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.parametrize("size", [(30_000, 30_000), (12_000, 12_000), (2**31 - 1, 1)])
async def test_a_picture_of_too_many_pixels_is_refused_before_it_is_unpacked(house: House, size):
    (house.storage.output / "bomb.png").write_bytes(a_bomb(*size))
    for query in ({"preview": "webp"}, {"channel": "rgb"}, {"channel": "a"}):
        assert (await view(house, filename="bomb.png", **query)).status == 400
    assert (await view(house, filename="bomb.png")).status == 200  # the file itself is small
    reference = json.dumps({"filename": "bomb.png"})
    reply = await upload(house, a_png(mode="RGBA"), "m.png", "/upload/mask", original_ref=reference)
    assert reply.status == 400


async def test_a_compressed_body_may_not_grow_beyond_the_limit(open_house):
    house = await open_house(max_upload_size=1.0)
    bomb = gzip.compress(b" " * (64 << 20))
    assert len(bomb) < 100_000
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    for path in ("/prompt", "/userdata/x", "/settings"):
        assert (await house.client.post(path, data=bomb, headers=headers)).status in (400, 413)
    assert not (house.storage.user / "default" / "x").exists()


@pytest.mark.filterwarnings("ignore:.*SpooledTemporaryFile")  # as below
async def test_a_form_of_many_large_parts_is_bounded_as_a_whole(open_house):
    house = await open_house(max_upload_size=1.0)
    data = FormData()
    for n in range(6):
        data.add_field(f"part{n}", b"x" * (600 << 10), filename="a.bin")
    assert (await house.client.post("/upload/image", data=data)).status == 413
    gc.collect()


@pytest.mark.filterwarnings("ignore:.*SpooledTemporaryFile")  # aiohttp leaves it to the collector
async def test_a_part_with_a_broken_head_is_400(house: House):
    part = b'--B\r\nContent-Disposition: form-data; name="image"; filename="\0"\r\n\r\nx\r\n--B--\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=B"}
    assert (await house.client.post("/upload/image", data=part, headers=headers)).status == 400
    gc.collect()
