"""No path leaves its root, in any route: names as attackers write them, sent as they are over a socket."""

import asyncio
import gc
import json
import os
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import quote

import pytest
from aiohttp import web
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from backend.engine.clock import SystemClock
from backend.engine.loop import Engine, Limits
from backend.engine.store import Store
from backend.settings import Settings
from backend.storage import Storage
from tests.backend.graph.toys import a_registry
from web.app import build_app

# Of a form that breaks off aiohttp leaves the temporary file to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in.*SpooledTemporaryFile", "ignore:Unclosed file"
)

SECRET = b"the-secret-outside"
ATOMS = (
    *("..", ".", "/", "\\", "//", "...", "....//", "~", "$HOME", "C:", "C:\\", "\\\\host\\share", "file:"),
    *(
        "secret.txt",
        "link",
        "link/secret.txt",
        "linked.txt",
        "input",
        "output",
        "user",
        "default",
        "a",
        "a.png",
    ),
    *(
        "\0",
        "\n",
        "%",
        "%2e",
        "%2f",
        "%5c",
        "%00",
        "%252e",
        "%252f",
        "%c0%ae",
        "\u2025",
        "\uff0e\uff0e",
        "\u2215",
    ),
    *("etc/passwd", "proc/self/environ", " ", "[input]", " [output]", "CON", "x" * 300, "\ud800", "é"),
)
NAMES = st.lists(st.sampled_from(ATOMS), min_size=1, max_size=6).map("".join)
GETS = (
    *("/view?filename={}", "/view?filename={}&type=input", "/view?filename=secret.txt&subfolder={}"),
    *(
        "/view?filename=secret.txt&type={}",
        "/view?filename={}&preview=webp",
        "/userdata/{}",
        "/userdata?dir={}",
    ),
    *(
        "/v2/userdata?path={}",
        "/view_metadata/checkpoints?filename={}",
        "/view_metadata/{}?filename=secret.txt",
    ),
    *("/experiment/models/preview/checkpoints/0/{}", "/experiment/models/{}", "/models/{}", "/extensions/{}"),
    *("/extensions/tessera/{}", "/templates/{}", "/docs/{}", "/{}", "/assets/{}", "/scripts/{}", "/jobs/{}"),
    *("/api/workflow_templates/pack/{}", "/api/workflow_templates/{}/secret.txt", "/internal/files/{}"),
    *("/api/assets/{}", "/api/assets/{}/content", "/api/assets?include_tags={}", "/api/tags?prefix={}"),
    *("/settings/{}", "/object_info/{}", "/history/{}", "/global_subgraphs/{}"),
)

CHANGES = ("upload", "mask", "data", "move", "delete")


@dataclass
class Site:
    """A server whose roots hold links to what lies outside of them."""

    base: Path
    port: int

    def ask(self, method: str, path: str, body: bytes = b"", kind: str = "text/plain") -> tuple[int, bytes]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body, {"Content-Type": kind})
            reply = connection.getresponse()
            return reply.status, reply.read()
        finally:
            connection.close()

    def outside(self) -> dict[str, bytes | None]:
        """Everything beside the folders that clients may write to."""
        within = ("input", "output", "temp", "user")
        found = {}
        for path, folders, files in os.walk(self.base.parent):
            if Path(path) == self.base:
                folders[:] = [f for f in folders if f not in within]
            found |= {str(Path(path, f)): None for f in folders}
            found |= {
                str(Path(path, f)): Path(path, f).read_bytes() for f in files if not f.startswith("jobs.db")
            }
        return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    top = tmp_path_factory.mktemp("site")
    base = top / "base"
    chosen = Settings(base_directory=base)
    storage = Storage(chosen)
    storage.prepare()
    for folder in (top, base, base / "custom_nodes", base / "models"):
        (folder / "secret.txt").write_bytes(SECRET)
    (base / "user" / "default").mkdir()
    (base / "custom_nodes" / "pack" / "workflows").mkdir(parents=True)
    for root in (storage.input, storage.output, storage.temp, base / "user" / "default"):
        (root / "link").symlink_to(top)
        (root / "linked.txt").symlink_to(top / "secret.txt")
        (root / "a.png").write_bytes(b"harmless")
    started, loop, port = threading.Event(), asyncio.new_event_loop(), []

    async def serve() -> None:
        store = Store.open(top / "jobs.db")
        engine = Engine(a_registry(), {Storage: storage}, store, SystemClock(), Limits())
        await engine.start()
        runner = web.AppRunner(build_app(engine, a_registry(), storage, chosen))
        await runner.setup()
        listening = web.TCPSite(runner, "127.0.0.1", 0)
        await listening.start()
        port.append(listening._server.sockets[0].getsockname()[1])
        started.set()
        await ended.wait()
        await runner.cleanup()
        await engine.close()
        store.close()

    ended = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert started.wait(20)
    yield Site(base, port[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    loop.call_soon_threadsafe(ended.set)
    thread.join(20)
    loop.close()


def written(name: str, whole: bool) -> str:
    """A name in an address: encoded whole, or only so far as it must be."""
    raw = name.encode("utf-8", "surrogatepass")
    return quote(raw, safe="" if whole else "/%.~:\\[]$") if name else ""


FUZZ = settings(
    max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@FUZZ
@given(name=NAMES, route=st.sampled_from(GETS), whole=st.booleans())
@example(name="../secret.txt", route="/{}", whole=False)
@example(name="link/secret.txt", route="/view?filename=secret.txt&subfolder={}", whole=True)
@example(name="linked.txt", route="/userdata/{}", whole=True)
@example(name="..%2f..%2fsecret.txt", route="/userdata/{}", whole=True)
@example(name="../../secret.txt", route="/view_metadata/checkpoints?filename={}", whole=True)
def test_nothing_outside_is_read(site: Site, name: str, route: str, whole: bool):
    status, body = site.ask("GET", route.format(written(name, whole)))
    assert SECRET not in body
    assert b"root:" not in body
    assert status < 500, body


@FUZZ
@given(
    name=NAMES,
    other=NAMES,
    whole=st.booleans(),
    kind=st.sampled_from(["upload", "mask", "asset", "data", "move", "delete"]),
)
@example(name="link/x", other="", whole=True, kind="upload")
@example(name="a.png", other="link", whole=True, kind="upload")
@example(name="../x.png", other="models/../..", whole=True, kind="asset")
@example(name="link/x", other="", whole=True, kind="data")
@example(name="a.png", other="link/x", whole=True, kind="move")
@example(name="linked.txt", other="", whole=True, kind="delete")
def test_nothing_outside_is_written_moved_or_deleted(
    site: Site, name: str, other: str, whole: bool, kind: str
):
    before = site.outside()
    if kind == "asset":
        status, body = site.ask("POST", "/api/assets", *a_form(name, other))
    elif kind in ("upload", "mask"):
        ending = {"upload": "image", "mask": "mask"}[kind]
        status, body = site.ask("POST", f"/upload/{ending}", *a_form(name, other))
    elif kind == "data":
        status, body = site.ask("POST", f"/userdata/{written(name, whole)}", b"x")
    elif kind == "move":
        path = f"/userdata/{written(name, whole)}/move/{written(other, whole)}"
        status, body = site.ask("POST", path)
    else:
        status, body = site.ask("DELETE", f"/userdata/{written(name, whole)}")
    assert status < 500, body
    assert SECRET not in body
    assert site.outside() == before


def a_form(name: str, folder: str) -> tuple[bytes, str]:
    raw, sub = (text.replace("\n", "").encode("utf-8", "surrogatepass") for text in (name, folder))
    reference = json.dumps({"filename": name, "subfolder": folder, "type": "input"}).encode()
    parts = (
        b'name="image"; filename="' + raw.replace(b'"', b"") + b'"\r\n\r\nx',
        b'name="subfolder"\r\n\r\n' + sub,
        b'name="file"; filename="' + raw.replace(b'"', b"") + b'"\r\n\r\nx' + sub,
        b'name="tags"\r\n\r\n["input", "models"]' if sub.startswith(b"m") else b'name="tags"\r\n\r\ninput',
        b'name="name"\r\n\r\n' + raw,
        b'name="original_ref"\r\n\r\n' + reference,
    )
    body = b"".join(b"--B\r\nContent-Disposition: form-data; " + part + b"\r\n" for part in parts)
    return body + b"--B--\r\n", "multipart/form-data; boundary=B"
