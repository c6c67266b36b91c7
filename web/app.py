"""build_app: every route, in one list."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from importlib.metadata import version
from pathlib import Path

from aiohttp import web

from backend.registry import Registry
from backend.settings import Settings
from backend.storage import Storage
from web import static
from web.access import Access
from web.asset_shelf import AssetShelf
from web.assets import Templates, front_end_folder
from web.guard import add_headers, guard
from web.logs import LogBuffer
from web.openapi import description
from web.routes import assets, files, jobs, models, objects, pool, prompt, queue, system, userdata, users
from web.routes import packs as pack_routes
from web.services import SERVICES, Engine, Services
from web.socket import Sockets
from web.users import Users


async def described(request: web.Request) -> web.Response:
    """GET /tessera/openapi.json: every route, for programs."""
    return web.json_response(description((*TWINNED, *ONCE), version("tessera-serve")))


# Each of these is there twice: at its own path and under /api.
TWINNED = (
    *prompt.ROUTES,
    *queue.ROUTES,
    *jobs.ROUTES,
    *objects.ROUTES,
    *models.ROUTES,
    *system.ROUTES,
    *pack_routes.ROUTES,
    *pool.ROUTES,
    *files.ROUTES,
    *users.ROUTES,
    *userdata.ROUTES,
    web.get("/tessera/openapi.json", described),
)
OWN_PACK = Path(__file__).parent / "extension"  # our part of the page
# At their own path only. The front end's own files lie below /assets.
ONCE = (*files.INTERNAL, *system.INTERNAL, *pool.UNTWINNED, *pack_routes.PREFIXED, *assets.PREFIXED)


def build_app(
    engine: Engine,
    registry: Registry,
    storage: Storage,
    settings: Settings,
    logs: LogBuffer | None = None,
    packs: dict[str, Path] | None = None,
) -> web.Application:
    """The whole edge over an engine.

    logs: what `/internal/logs` shows; packs: a node pack's name -> the folder of its front-end files.
    """
    limit = settings.max_upload_size * 1024 * 1024
    features: dict[str, object] = {
        "supports_preview_metadata": True,
        "max_upload_size": int(limit) if limit.is_integer() else limit,
    }
    sockets = Sockets(features, engine)
    app = web.Application(client_max_size=round(limit), middlewares=[guard])
    app[SERVICES] = Services(
        engine=engine,
        registry=registry,
        storage=storage,
        settings=settings,
        users=Users(storage, multiple=settings.multi_user),
        sockets=sockets,
        logs=logs or LogBuffer(),
        front_end=front_end_folder(settings.front_end_root),
        templates=Templates(),
        features=features,
        shelf=AssetShelf(engine.store, storage),
        access=Access(settings.auth_token),
        packs={"tessera": OWN_PACK, **(packs or {})},
    )
    app.router.add_routes([*_twins([*TWINNED, web.get("/ws", sockets.handle)]), *ONCE, *static.ROUTES])
    _refuse_get(app)
    app.router.add_routes([static.FALLBACK])
    app.on_response_prepare.append(add_headers)
    app.cleanup_ctx.append(_listen)
    app.on_shutdown.append(_close_sockets)
    return app


def _twins(routes: list[web.RouteDef]) -> Iterator[web.RouteDef]:
    for route in routes:
        yield route
        yield web.RouteDef(route.method, "/api" + route.path, route.handler, route.kwargs)


def _refuse_get(app: web.Application) -> None:
    """405 where a path takes other methods only: the fallback would take a GET of it for a file's name."""
    methods: dict[str, set[str]] = {}
    for route in app.router.routes():
        if route.resource is not None:
            methods.setdefault(route.resource.canonical, set()).add(route.method)

    async def refuse(request: web.Request) -> web.StreamResponse:
        resource = request.match_info.route.resource
        raise web.HTTPMethodNotAllowed("GET", methods[resource.canonical] if resource else ())

    for resource in app.router.resources():
        if isinstance(resource, web.Resource) and "GET" not in methods[resource.canonical]:
            resource.add_route("GET", refuse)


async def _listen(app: web.Application) -> AsyncIterator[None]:
    """Hear the engine's events and the log, for as long as the server runs."""
    services = app[SERVICES]
    unsubscribe = services.engine.subscribe(services.sockets.on_event)
    services.logs.listen(services.sockets.on_log, asyncio.get_running_loop())
    yield
    services.logs.silence()
    unsubscribe()


async def _close_sockets(app: web.Application) -> None:
    await app[SERVICES].sockets.close()
