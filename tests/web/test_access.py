import pytest
from aiohttp import WSServerHandshakeError

from tests.web.conftest import House
from web.access import COOKIE

TOKEN = "a-token-of-length"


@pytest.fixture
async def locked(open_house) -> House:
    return await open_house(auth_token=TOKEN)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/prompt",
        "/api/queue",
        "/ws",
        "/api/ws",
        "/metrics",
        "/internal/logs",
        "/scripts/app.js",
        "/nothing",
    ],
)
async def test_without_the_token_nothing_is_answered(locked: House, path: str):
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Cookie": f"{COOKIE}={TOKEN}"},
        {"Authorization": "Bearer \udcff"},
    ):
        reply = await locked.client.get(path, headers=headers)
        assert reply.status == 401
        assert reply.headers["WWW-Authenticate"].startswith("Bearer")
        assert TOKEN not in await reply.text()
    assert (await locked.client.post("/prompt", json={})).status == 401
    assert (await locked.client.get(path, params={"token": "wrong"})).status == 401


async def test_a_program_shows_the_token_in_a_header(locked: House):
    headers = {"Authorization": f"bearer {TOKEN}"}
    assert (await locked.client.get("/prompt", headers=headers)).status == 200
    socket = await locked.client.ws_connect("/ws", headers=headers)
    assert (await socket.receive_json())["type"] == "status"


async def test_a_browser_signs_in_once_and_keeps_a_cookie(locked: House):
    reply = await locked.client.get("/", params={"token": TOKEN, "x": "1 2"}, allow_redirects=False)
    assert (reply.status, reply.headers["Location"]) == (303, "./?x=1+2")
    kept = reply.cookies[COOKIE]
    assert (kept["httponly"], kept["samesite"], kept["secure"]) == (True, "Lax", "")
    assert TOKEN not in kept.value
    locked.client.session.cookie_jar.clear()
    cookie = {"Cookie": f"{COOKIE}={kept.value}"}
    assert (await locked.client.get("/prompt", headers=cookie)).status == 200
    socket = await locked.client.ws_connect("/ws", headers=cookie)
    assert (await socket.receive_json())["type"] == "status"
    with pytest.raises(WSServerHandshakeError, match="401"):
        await locked.client.ws_connect("/ws")


async def test_a_socket_may_show_the_token_in_its_address(locked: House):
    socket = await locked.client.ws_connect(f"/ws?clientId=me&token={TOKEN}")
    assert (await socket.receive_json())["data"]["sid"] == "me"


async def test_questions_before_a_request_of_another_site_need_no_token(open_house):
    house = await open_house(auth_token=TOKEN, enable_cors_header="https://app.example")
    reply = await house.client.options("/prompt")
    assert (reply.status, "Authorization" in reply.headers["Access-Control-Allow-Headers"]) == (200, True)


async def test_behind_a_proxy_that_speaks_https_the_cookie_is_for_https_only(locked: House):
    headers = {"X-Forwarded-Proto": "https"}
    reply = await locked.client.get(f"/?token={TOKEN}", headers=headers, allow_redirects=False)
    assert (reply.headers["Location"], reply.cookies[COOKIE]["secure"]) == ("./", True)
