"""What the handlers work with, under one key of the application."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Protocol

from aiohttp import web

from backend.engine.events import Event
from backend.engine.jobs import Accepted, Submission
from backend.engine.metrics import Metrics
from backend.engine.record import JobRecord
from backend.engine.store import Store
from backend.engine.view import PoolView
from backend.registry import Registry
from backend.schedule.forecast import Forecast
from backend.settings import Settings
from backend.storage import Storage
from backend.types import ClientId, JobId, NodeId
from backend.values import frozen
from backend.worker.messages import DeviceInfo
from comfy_compat.bridge import OnPrompt
from comfy_compat.pack_files import Pack
from web.access import Access
from web.asset_shelf import AssetShelf
from web.assets import Templates
from web.logs import LogBuffer
from web.socket import Sockets
from web.users import Users


class Engine(Protocol):
    """The part of `backend.engine.loop.Engine` that the edge calls (docs/engine_api.md)."""

    @property
    def store(self) -> Store: ...
    def subscribe(self, listener: Callable[[Event], None]) -> Callable[[], None]: ...
    async def submit(self, request: Submission) -> Accepted: ...
    def queue(self) -> tuple[list[JobRecord], list[JobRecord]]: ...
    def remaining(self) -> int: ...
    async def cancel_pending(self, ids: Sequence[JobId] | None) -> None: ...
    async def interrupt(self, id: JobId | None) -> None: ...
    async def free(self, unload_models: bool, free_memory: bool) -> None: ...
    def running_node(self, client: ClientId) -> NodeId | None: ...
    def devices(self) -> list[DeviceInfo]: ...
    def wake(self) -> None: ...
    def pool_view(self) -> PoolView: ...
    def forecasts(self) -> dict[JobId, Forecast]: ...
    def metrics(self) -> Metrics: ...


@frozen
class Services:
    """packs: a node pack's name -> the folder of its scripts; loaded: all packs, with what became of them;
    on_prompt: what they make of a request before it is queued. writing: held while a free name is used.
    """

    engine: Engine
    registry: Registry
    storage: Storage
    settings: Settings
    users: Users
    sockets: Sockets
    logs: LogBuffer
    front_end: Path | None
    templates: Templates
    features: Mapping[str, object]
    shelf: AssetShelf
    packs: dict[str, Path] = field(default_factory=dict)
    loaded: list[Pack] = field(default_factory=list)
    on_prompt: list[OnPrompt] = field(default_factory=list)
    access: Access = field(default_factory=Access)
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)


SERVICES = web.AppKey("services", Services)
