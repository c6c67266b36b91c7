"""Facts about the server, and what the front end asks for once, at its start."""

import asyncio
import os
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
from aiohttp import web

from backend.types import ClientId
from web import wire
from web.body import read_object
from web.services import SERVICES

COMFYUI_VERSION = "0.3.64"  # whose behaviour we have


def installed(package: str) -> str | None:
    """The version of an installed package, without importing it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


async def system_stats(request: web.Request) -> web.Response:
    """GET /system_stats: answers before any device has come up."""
    services = request.app[SERVICES]
    memory = psutil.virtual_memory()
    front_end, templates = installed("comfyui-frontend-package"), installed("comfyui-workflow-templates-core")
    system: wire.Json = {
        "os": os.name,
        "ram_total": memory.total,
        "ram_free": memory.available,
        "comfyui_version": COMFYUI_VERSION,
        "required_frontend_version": front_end,
        "installed_templates_version": templates,
        "required_templates_version": templates,
        "python_version": sys.version,
        "pytorch_version": installed("torch"),
        "embedded_python": False,
        "argv": list(services.settings.argv),
    }
    return web.json_response(wire.system_stats(system, services.engine.devices()))


async def features(request: web.Request) -> web.Response:
    """GET /features"""
    return web.json_response(dict(request.app[SERVICES].features))


async def extensions(request: web.Request) -> web.Response:
    """GET /extensions: every script that the front end may load."""
    services = request.app[SERVICES]
    return web.json_response(await asyncio.to_thread(_scripts, services.front_end, dict(services.packs)))


def _scripts(front_end: Path | None, packs: dict[str, Path]) -> list[str]:
    roots = {} if front_end is None else {"": front_end / "extensions"}
    roots |= {f"{name}/": folder for name, folder in packs.items()}
    found = []
    for prefix, root in roots.items():
        names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.js"))
        found += [f"/extensions/{prefix}{name}" for name in names]
    return found


async def folder_paths(request: web.Request) -> web.Response:
    """GET /internal/folder_paths"""
    storage = request.app[SERVICES].storage
    return web.json_response({kind: [str(f) for f in storage.folders(kind)] for kind in storage.kinds()})


async def logs(request: web.Request) -> web.Response:
    """GET /internal/logs: the last lines as one text."""
    entries = request.app[SERVICES].logs.entries
    return web.json_response("".join(f"{e.time} - {e.message}" for e in entries))


async def raw_logs(request: web.Request) -> web.Response:
    """GET /internal/logs/raw"""
    size = shutil.get_terminal_size()
    entries = list(request.app[SERVICES].logs.entries)
    return web.json_response(wire.log_lines(entries, (size.columns, size.lines)))


async def subscribe_logs(request: web.Request) -> web.Response:
    """PATCH /internal/logs/subscribe: send new lines to a websocket, or no longer."""
    body = await read_object(request)
    client, enabled = body.get("clientId"), body.get("enabled")
    if not isinstance(client, str) or not isinstance(enabled, bool):
        raise web.HTTPBadRequest(text="The body must have `clientId`, a text, and `enabled`, true or false.")
    request.app[SERVICES].sockets.subscribe_logs(ClientId(client), enabled)
    return web.Response()


ROUTES = (
    web.get("/system_stats", system_stats),
    web.get("/features", features),
    web.get("/extensions", extensions),
)
INTERNAL = (
    web.get("/internal/folder_paths", folder_paths),
    web.get("/internal/logs", logs),
    web.get("/internal/logs/raw", raw_logs),
    web.patch("/internal/logs/subscribe", subscribe_logs),
)
