"""A real server with the probe pack, and a listener on its websocket."""

import asyncio
import json
import shutil
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import ClientSession, ClientWebSocketResponse, WSMsgType
from yarl import URL

from tests.contract.matching import Bindings
from tests.serving import Server

FLAGS = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}


@contextmanager
def a_server(base: Path, *flags: str) -> Iterator[Server]:
    """A server with the probe pack."""
    packs = base / "custom_nodes"
    packs.mkdir()
    shutil.copy(Path(__file__).with_name("probes.py"), packs)
    with Server(base, ("--cpu", "--workers", "1", *flags)) as server:
        yield server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with a_server(tmp_path_factory.mktemp("contract")) as server:
        yield server


def a_binary(data: bytes) -> dict:
    """A binary frame, in the words of the recordings."""
    kind, second = struct.unpack_from(">II", data)
    if kind == 4:
        metadata, image = json.loads(data[8 : 8 + second]), data[8 + second :]
        return {
            **{"binary_event_type": 4, "metadata_length_field": "<uint32 BE = byte length of the JSON>"},
            **{"metadata": metadata, "image_magic_hex": image[:3].hex()},
        }
    if kind == 3:
        node, text = data[8 : 8 + second].decode(), data[8 + second :].decode()
        return {"binary_event_type": 3, "node_id": node, "text": text}
    return {"binary_event_type": kind, "image_format_field": second, "image_magic_hex": data[8:11].hex()}


@dataclass
class Listener:
    socket: ClientWebSocketResponse
    frames: list[dict] = field(default_factory=list)

    async def until_quiet(self, quiet: float = 0.3) -> list[dict]:
        """What came since the last call, until nothing comes for a moment."""
        received: list[dict] = []
        while True:
            try:
                message = await self.socket.receive(timeout=quiet)
            except TimeoutError:
                return received
            received.append(
                json.loads(message.data) if message.type == WSMsgType.TEXT else a_binary(message.data)
            )

    async def until(self, kind: str, **data: object) -> list[dict]:
        """What came, up to a frame of that type and those facts."""
        received: list[dict] = []
        while True:
            message = await self.socket.receive(timeout=30)
            frame = json.loads(message.data) if message.type == WSMsgType.TEXT else a_binary(message.data)
            received.append(frame)
            if frame.get("type") == kind and data.items() <= frame["data"].items():
                return received


@dataclass
class Wire:
    """A client of the server: requests as recorded, and sockets."""

    session: ClientSession
    url: str
    bound: Bindings = field(default_factory=Bindings)

    async def listen(self, sid: str, flags: bool) -> Listener:
        listener = Listener(await self.session.ws_connect(f"{self.url}/ws?clientId={sid}"))
        if flags:
            await listener.socket.send_json(FLAGS)
        await listener.until_quiet(0.2)
        return listener

    async def ask(self, method: str, path: str, **more: object) -> tuple[int, object]:
        """Status, and the body as JSON where it is JSON."""
        target = URL(self.url + self.bound.filled(path), encoded=True)
        async with self.session.request(method, target, **more) as reply:
            text = await reply.text()
            return reply.status, json.loads(text) if "json" in reply.content_type else text

    async def ended(self, job: str) -> dict:
        """The history entry of a job, once there is one."""
        for _ in range(600):
            _, entry = await self.ask("GET", f"/history/{job}")
            if entry:
                return entry[job]
            await asyncio.sleep(0.05)
        raise TimeoutError(job)

    async def forget(self) -> None:
        """No results, no history, nothing queued: as after a start."""
        await self.ask("POST", "/queue", json={"clear": True})
        await self.ask("POST", "/free", json={"free_memory": True})
        await self.ask("POST", "/history", json={"clear": True})


@pytest.fixture
async def classic(tmp_path: Path) -> AsyncIterator[Wire]:
    """A server that keeps results as ComfyUI does."""
    with a_server(tmp_path, "--cache-classic") as server:
        async with ClientSession() as session:
            yield Wire(session, server.url)


@pytest.fixture
async def wire(server: Server) -> AsyncIterator[Wire]:
    async with ClientSession() as session:
        wire = Wire(session, server.url)
        await wire.forget()
        yield wire
