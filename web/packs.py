"""Node packs at the start of a server: loaded, their routes and scripts served, their pushes sent."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from aiohttp import web

from backend.engine.loop import Engine
from backend.types import ClientId, NodeId
from backend.worker.host import HOST
from backend.worker.messages import Said
from comfy_compat.bridge import Bridge
from comfy_compat.install import install, prompt_server
from comfy_compat.pack_files import Pack, find, prestart
from web.assembly import Assembly
from web.services import SERVICES
from web.socket import Sockets


class SocketMessenger:
    """What packs push, from whatever thread, handed to the websockets on the loop's thread. Events and texts
    go through the engine: what a node says comes before the news that it has ended.
    """

    def __init__(self, sockets: Sockets, engine: Engine, loop: asyncio.AbstractEventLoop) -> None:
        self._sockets, self._engine, self._loop = sockets, engine, loop

    def send(self, event: str, data: object, sid: str | None) -> None:
        self._engine.report(HOST, Said(event, data, _client(sid)))

    def send_text(self, text: str, node: str, sid: str | None) -> None:
        self._engine.report(HOST, Said("text", text, _client(sid), NodeId(node)))

    def send_binary(self, kind: int, data: bytes, sid: str | None) -> None:
        self._soon(self._sockets.send_binary, kind, data, _client(sid))

    def _soon(self, send: Callable[..., None], *arguments: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(send, *arguments)


def _client(sid: str | None) -> ClientId | None:
    return None if sid is None else ClientId(sid)


def _queue(engine: Engine) -> tuple[list[object], list[object]]:
    """Running and pending jobs as packs know them: (number, id, prompt, extra data, outputs)."""
    running, pending = engine.queue()
    return tuple(  # type: ignore[return-value]  # two lists
        [(r.number, r.id, r.prompt, dict(r.extra), list(r.targets)) for r in records]
        for records in (running, pending)
    )


async def load_packs(assembly: Assembly, app: web.Application | None = None) -> list[Pack]:
    """Load every pack of the custom_nodes folders. app: the server that they may extend, before it starts."""
    bridge = Bridge(assembly.registry, assembly.storage, assembly.settings, services=assembly.services)
    if app is not None:
        bridge.messenger = SocketMessenger(app[SERVICES].sockets, assembly.engine, asyncio.get_running_loop())
    bridge.queue = partial(_queue, assembly.engine)
    paths = list(find(assembly.storage.folders("custom_nodes"), assembly.settings))
    if not paths:
        return []
    install(bridge)
    prestart(paths)
    # packs load torch; a server without any answers before it is loaded
    from comfy_compat.custom_nodes import load

    server = prompt_server(asyncio.get_running_loop(), app)
    packs = await load(paths, bridge)
    if app is not None:
        _extend(app, bridge, packs, server.routes)
    return packs


def _extend(
    app: web.Application, bridge: Bridge, packs: Sequence[Pack], routes: Sequence[web.AbstractRouteDef]
) -> None:
    services = app[SERVICES]
    for route in routes:
        app.router.add_routes([route])
        if isinstance(route, web.RouteDef):
            app.router.add_routes(
                [web.RouteDef(route.method, "/api" + route.path, route.handler, route.kwargs)]
            )
    services.loaded.extend(packs)
    services.on_prompt.extend(bridge.on_prompt)
    for pack in packs:
        services.packs.update(pack.web)
