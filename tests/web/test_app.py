import gzip
import io

import pytest

from tests.web.conftest import House
from web.app import ONCE, TWINNED

OURS = "http://127.0.0.1"


async def test_every_route_is_there_twice_but_for_internal_ones_and_metrics(house: House):
    paths = {(r.method, r.resource.canonical) for r in house.client.app.router.routes() if r.resource}
    for route in TWINNED:
        assert (route.method, route.path.replace(r":\d+", "").replace(":.+", "")) in paths
        assert (route.method, "/api" + route.path.replace(r":\d+", "").replace(":.+", "")) in paths
    assert {("GET", "/ws"), ("GET", "/api/ws")} <= paths
    for route in ONCE:
        assert route.path.startswith(("/internal/", "/metrics", "/api/"))
        assert ("/api" + route.path) not in {path for _, path in paths}
    assert (await house.client.get("/api/internal/logs")).status == 404


@pytest.mark.parametrize(
    "path", ["/nothing", "/api/nothing", "/index", "/assets/absent.js", "/prompt/x", "/api"]
)
async def test_an_unknown_path_is_never_a_page(house: House, path: str):
    reply = await house.client.get(path)
    assert reply.status == 404
    assert await reply.read() == b""
    assert reply.content_type == "application/octet-stream"


async def test_a_known_path_with_another_method_is_405(house: House):
    assert (await house.client.delete("/prompt")).status == 405
    assert (await house.client.post("/system_stats")).status == 405
    refused = await house.client.get("/api/interrupt")
    assert (refused.status, refused.headers["Allow"]) == (405, "POST")


@pytest.mark.parametrize("path", ["/prompt", "/nothing", "/"])
async def test_options_are_always_answered(house: House, path: str):
    reply = await house.client.options(path)
    assert (reply.status, await reply.read()) == (200, b"")


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("127.0.0.1:8188", "http://127.0.0.1:8188", 200),
        ("127.0.0.1:8188", "http://localhost:8188", 403),
        ("localhost:8188", "http://evil.example", 403),
        ("127.0.0.1:8188", "http://127.0.0.1:9999", 403),
        ("127.0.0.1:8188", "http://127.0.0.1", 200),
        ("127.0.0.1", "http://127.0.0.1:8188", 200),
        ("[::1]:8188", "http://evil.example", 403),
        ("LOCALHOST:8188", "http://localhost:8188", 200),
        ("192.0.2.1:8188", "http://evil.example", 200),
        ("127.0.0.1:8188", "null", 200),
        ("127.0.0.1:8188", "http://127.0.0.1:x", 200),
    ],
)
async def test_pages_of_other_sites_are_refused_on_the_loopback(
    house: House, host: str, origin: str, status: int
):
    headers = {"Host": host, "Origin": origin}
    reply = await house.client.post("/free", data=b"{}", headers=headers)
    assert reply.status == status
    if status == 403:
        assert await reply.read() == b""
        assert (await house.client.get("/ws", headers=headers)).status == 403


async def test_cors_headers_take_the_place_of_the_origin_check(open_house):
    house = await open_house(enable_cors_header="https://app.example")
    headers = {"Host": "localhost:1", "Origin": "https://app.example"}
    for reply in (
        await house.client.get("/prompt", headers=headers),
        await house.client.options("/prompt", headers=headers),
        await house.client.get("/nothing", headers=headers),
    ):
        assert reply.headers["Access-Control-Allow-Origin"] == "https://app.example"
        assert "DELETE" in reply.headers["Access-Control-Allow-Methods"]
        assert "Content-Type" in reply.headers["Access-Control-Allow-Headers"]
        assert reply.headers["Access-Control-Allow-Credentials"] == "true"


async def test_without_the_flag_there_are_no_cors_headers(house: House):
    reply = await house.client.get("/prompt")
    assert "Access-Control-Allow-Origin" not in reply.headers


async def test_long_texts_are_compressed_when_asked_for(open_house):
    house = await open_house(compress_responses=True)
    house.client.session._auto_decompress = False
    reply = await house.client.get("/object_info", headers={"Accept-Encoding": "gzip"})
    assert reply.headers["Content-Encoding"] == "gzip"
    assert b'"Show"' in gzip.decompress(await reply.read())
    plain = await house.client.get("/object_info", headers={"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in plain.headers


async def test_a_body_above_the_limit_is_413(open_house):
    house = await open_house(max_upload_size=0.001)
    assert (await house.client.post("/prompt", data=b"x" * 1100)).status == 413
    assert (await house.client.post("/upload/image", data={"image": io.BytesIO(b"x" * 1100)})).status == 413


async def test_what_breaks_inside_is_told_as_text(house: House, monkeypatch):
    monkeypatch.setattr(type(house.engine), "remaining", lambda self: 1 / 0)
    reply = await house.client.get("/prompt")
    assert (reply.status, reply.content_type) == (500, "text/plain")
    assert "ZeroDivisionError" in await reply.text()


@pytest.mark.parametrize(
    "path", ["/prompt", "/queue", "/settings", "/settings/a", "/api/jobs/cancel", "/users"]
)
@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b"[" * 100_000, b'{"a": ' * 50_000, b"1" * 5000])
async def test_what_is_no_json_is_400(house: House, path: str, body: bytes):
    assert (await house.client.post(path, data=body)).status == 400
