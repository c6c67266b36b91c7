"""The edge over a real engine whose only device is the host: nodes that need neither torch nor a worker."""

import json
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer

from backend.engine.clock import SystemClock
from backend.engine.loop import Engine, Limits
from backend.engine.store import Store
from backend.library import Library
from backend.models.identity import identify
from backend.node import NodeSpec, Result, node
from backend.settings import Settings
from backend.storage import Storage
from backend.types import AnyValue
from backend.worker.host import Host
from tests.backend.graph.toys import a_registry
from web.app import build_app
from web.logs import LogBuffer

RECORDED = Path(os.environ.get("TESSERA_SHARED", "../shared")) / "contract" / "recorded"


def recorded(name: str) -> dict:
    """One of the recorded exchanges with ComfyUI; the test is skipped in a clone without them."""
    path = RECORDED / f"{name}.json"
    if not path.is_file():
        pytest.skip(f"{path} is missing: point TESSERA_SHARED at the folder that holds contract/recorded")
    return json.loads(path.read_text())


@dataclass
class House:
    """A running edge, and what tests look at behind it."""

    client: TestClient
    engine: Engine
    storage: Storage
    logs: LogBuffer
    gate: threading.Event = field(default_factory=threading.Event)

    async def run(self, prompt: dict, **more: object) -> str:
        """Submit a prompt and wait for its end."""
        job = await self.submit(prompt, **more)
        await self.ended(job)
        return job

    async def submit(self, prompt: dict, **more: object) -> str:
        reply = await self.client.post("/prompt", json={"prompt": prompt, **more})
        assert reply.status == 200, await reply.text()
        return (await reply.json())["prompt_id"]

    async def ended(self, job: str) -> dict:
        for _ in range(1000):
            entry = await (await self.client.get(f"/history/{job}")).json()
            if entry:
                return entry[job]
        raise TimeoutError(job)

    async def text(self, path: str) -> str:
        return await (await self.client.get(path)).text()

    async def json(self, path: str) -> object:
        return await (await self.client.get(path)).json()


def a_gate_node(gate: threading.Event) -> NodeSpec:
    @node("Gate", category="toys", output_node=True)
    def wait(*, value: AnyValue, tag: str | None = None) -> Result:
        """Stays running until the test opens the gate."""
        gate.wait(20)
        return Result(ui={"shown": [value]})

    return wait


@node("Fail", category="toys", output_node=True)
def fail(*, value: AnyValue) -> Result:
    raise ValueError(f"no {value}")


@pytest.fixture
async def open_house(
    tmp_path: Path, aiohttp_client: Callable[..., Awaitable[TestClient]]
) -> AsyncIterator[Callable[..., Awaitable[House]]]:
    opened: list[tuple[House, Store]] = []

    async def open(**settings: object) -> House:
        chosen = Settings(base_directory=tmp_path, **settings)
        storage, gate, logs = Storage(chosen), threading.Event(), LogBuffer()
        storage.prepare()
        registry = a_registry(a_gate_node(gate), fail)
        services = {Storage: storage, Settings: chosen, Library: Library(storage, identify)}
        store = Store.open(tmp_path / "jobs.db")
        engine = Engine(registry, services, store, SystemClock(), Limits(max_queue=chosen.max_queue))
        host = Host(registry, services, engine.report, threads=1)
        await engine.start()
        engine.add_host(host, slots=1)
        app = build_app(engine, registry, storage, chosen, logs)
        house = House(await aiohttp_client(TestServer(app)), engine, storage, logs, gate)
        opened.append((house, store))
        return house

    yield open
    for house, store in opened:
        house.gate.set()
        await house.client.close()
        await house.engine.close()
        store.close()


@pytest.fixture
async def house(open_house: Callable[..., Awaitable[House]]) -> House:
    return await open_house()


def a_prompt(value: object = 1, **more: object) -> dict:
    """A prompt of one output node."""
    return {"1": {"class_type": "Add", "inputs": {"a": value}}} | {
        "2": {"class_type": "Show", "inputs": {"value": ["1", 0], **more}}
    }


def a_held_prompt(value: object = 1) -> dict:
    """A prompt that runs until the gate opens."""
    return {"1": {"class_type": "Gate", "inputs": {"value": value}}}


def a_failing_prompt(value: object = "luck") -> dict:
    return {"1": {"class_type": "Fail", "inputs": {"value": value}}}
