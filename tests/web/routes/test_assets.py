import json
from collections.abc import Awaitable, Callable

from aiohttp import FormData

from tests.web.conftest import House

BYTES = b"some bytes"


async def uploaded(house: House, content: bytes | None = BYTES, **fields: object) -> tuple[int, dict]:
    texts = {name: value for name, value in fields.items() if isinstance(value, str)}
    form = FormData(texts, default_to_multipart=True)
    for name, value in fields.items():
        if not isinstance(value, str):
            form.add_field(name, json.dumps(value))
    if content is not None:
        form.add_field("file", content, filename="cat.png", content_type="image/png")
    reply = await house.client.post("/api/assets", data=form)
    return reply.status, await reply.json()


async def asked(house: House, method: str, path: str, **more: object) -> tuple[int, dict]:
    reply = await house.client.request(method, path, **more)
    return reply.status, json.loads(await reply.read() or "{}")


async def test_an_upload_lies_under_its_hash_and_comes_back_whole(house: House):
    status, asset = await uploaded(house, tags=["input", "x", ".."], name="my cat", user_metadata={"k": 1})
    assert (status, asset["created_new"], asset["name"]) == (201, True, "my cat")
    assert (asset["tags"], asset["size"], asset["mime_type"]) == (["input", "x", ".."], 10, "image/png")
    file = asset["hash"].removeprefix("blake3:") + ".png"
    assert (house.storage.input / file).read_bytes() == BYTES
    assert asset["user_metadata"] == {"k": 1, "filename": file}
    reply = await house.client.get(f"/api/assets/{asset['id']}/content?disposition=inline")
    assert await reply.read() == BYTES
    assert reply.headers["Content-Disposition"] == "inline; filename*=UTF-8''my%20cat"
    assert (await asked(house, "GET", f"/api/assets/{asset['id']}"))[1]["last_access_time"]
    preview = await house.client.get("/" + asset["preview_url"])
    assert await preview.read() == BYTES


async def test_equal_bytes_are_kept_once_under_many_names(house: House):
    _, first = await uploaded(house, tags="input, a")
    status, second = await uploaded(house, tags=["nowhere"])
    assert (status, second["created_new"], second["hash"]) == (200, False, first["hash"])
    assert second["id"] != first["id"]
    status, third = await asked(
        house, "POST", "/api/assets/from-hash", json={"hash": first["hash"], "tags": ["b"]}
    )
    assert (status, third["name"]) == (201, first["hash"].removeprefix("blake3:"))
    for asset in (first, second, third):
        assert (await house.client.delete(f"/api/assets/{asset['id']}")).status == 204
    assert (await asked(house, "GET", f"/api/assets/{first['id']}"))[1]["error"]["code"] == "ASSET_NOT_FOUND"
    assert (await house.client.head(f"/api/assets/hash/{first['hash']}")).status == 200
    assert (await house.client.head("/api/assets/hash/blake3:" + "0" * 64)).status == 404
    assert (await house.client.head("/api/assets/hash/x")).status == 400


async def test_assets_outlive_a_restart(open_house: Callable[..., Awaitable[House]]):
    before = await open_house()
    _, asset = await uploaded(before, tags=["output", "kept"])
    after = await open_house()
    listed = await after.json("/api/assets?include_tags=kept")
    assert [a["id"] for a in listed["assets"]] == [asset["id"]]


async def test_files_on_disk_are_listed_by_tag_and_page(house: House):
    for name in ("a.png", "b.png", "c.png"):
        (house.storage.input / name).write_bytes(b"x")
    (house.storage.models / "loras" / "l.safetensors").write_bytes(b"xx")
    page = await house.json("/api/assets?include_tags=input&sort=name&order=asc&limit=2")
    assert ([a["name"] for a in page["assets"]], page["total"]) == (["a.png", "b.png"], 3)
    assert page["has_more"] is True
    page = await house.json("/api/assets?exclude_tags=input&name_contains=L.S")
    assert [a["display_name"] for a in page["assets"]] == ["loras/l.safetensors"]
    tags = await house.json("/api/tags?include_zero=false&limit=1")
    assert tags == {"tags": [{"name": "input", "count": 3}], "total": 3, "has_more": True}
    assert {"name": "model_type:vae", "count": 0} in (await house.json("/api/tags?prefix=model_type:v"))[
        "tags"
    ]
    refined = await house.json("/api/assets/tags/refine?include_tags=models")
    assert refined == {"tag_counts": {"models": 1, "model_type:loras": 1}}


async def test_a_file_on_disk_can_be_named_tagged_and_hidden(house: House):
    (house.storage.input / "a.png").write_bytes(b"x")
    id = (await house.json("/api/assets"))["assets"][0]["id"]
    status, told = await asked(house, "POST", f"/api/assets/{id}/tags", json={"tags": ["input", "new"]})
    assert (status, told["added"], told["already_present"]) == (200, ["new"], ["input"])
    _, told = await asked(house, "DELETE", f"/api/assets/{id}/tags", json={"tags": ["new", "no"]})
    assert (told["removed"], told["not_present"], told["total_tags"]) == (["new"], ["no"], ["input"])
    change = {"name": "cat", "user_metadata": {"k": 1}}
    _, asset = await asked(house, "PUT", f"/api/assets/{id}", json=change)
    assert (asset["name"], asset["user_metadata"]) == ("cat", {"k": 1, "filename": "a.png"})
    assert (await house.client.get(f"/api/assets/{id}/content")).status == 200
    assert (await house.client.delete(f"/api/assets/{id}")).status == 204
    assert (await house.json("/api/assets"))["total"] == 0
    assert (house.storage.input / "a.png").is_file()


async def test_what_is_wrong_is_said_with_a_code(house: House):
    unknown = "blake3:" + "0" * 64
    cases = [
        (await uploaded(house, tags=["x"]), 400, "INVALID_BODY"),
        (await uploaded(house, tags=["input"], user_metadata="{no"), 400, "INVALID_BODY"),
        (await uploaded(house, tags=["input"], mime_type="x\r\ny"), 400, "INVALID_BODY"),
        (await uploaded(house, b"", tags=["input"]), 400, "EMPTY_UPLOAD"),
        (await uploaded(house, None, tags=["input"]), 400, "MISSING_FILE"),
        (await uploaded(house, tags=["input"], hash=unknown), 400, "HASH_MISMATCH"),
        (await uploaded(house, tags=["input"], id="x"), 400, "UNSUPPORTED_FIELD"),
        (await asked(house, "POST", "/api/assets", json={}), 415, "UNSUPPORTED_MEDIA_TYPE"),
        (await asked(house, "POST", "/api/assets/from-hash", json={"hash": unknown}), 404, "ASSET_NOT_FOUND"),
        (await asked(house, "POST", "/api/assets/from-hash", json={"hash": "md5:0"}), 400, "INVALID_BODY"),
        (await asked(house, "POST", "/api/assets/from-hash", data="{"), 400, "INVALID_JSON"),
        (await asked(house, "GET", "/api/assets?limit=501"), 400, "INVALID_QUERY"),
        (await asked(house, "GET", "/api/assets?metadata_filter=[1]"), 400, "INVALID_QUERY"),
        (await asked(house, "GET", "/api/tags?limit=x"), 400, "INVALID_QUERY"),
        (await asked(house, "GET", "/api/assets/none/content"), 404, "ASSET_NOT_FOUND"),
    ]
    for (status, told), wanted, code in cases:
        assert (status, told["error"]["code"]) == (wanted, code), told
        assert len(told["error"]["message"]) > 10


async def test_a_page_of_a_stranger_is_saved_not_shown(house: House):
    form = FormData({"tags": "input", "mime_type": "image/svg+xml"})
    form.add_field("file", b"<svg/>", filename="a.svg")
    asset = await (await house.client.post("/api/assets", data=form)).json()
    reply = await house.client.get(f"/api/assets/{asset['id']}/content?disposition=inline")
    assert reply.content_type == "application/octet-stream"
    assert reply.headers["Content-Disposition"].startswith("attachment")
