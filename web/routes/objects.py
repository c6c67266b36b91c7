"""Node classes as the front end reads them."""

import asyncio

from aiohttp import web

from comfy_compat.object_info import describe
from web import wire
from web.services import SERVICES


async def all_classes(request: web.Request) -> web.Response:
    """GET /object_info. A page that opens asks for it: its first prompt shall find the workers ready."""
    services = request.app[SERVICES]
    services.engine.wake()

    def told() -> str:
        return wire.dumps(describe(services.registry, services.storage))

    return web.Response(text=await asyncio.to_thread(told), content_type="application/json")


async def one_class(request: web.Request) -> web.Response:
    """GET /object_info/{class}: {} for a class that does not exist."""
    services = request.app[SERVICES]
    spec = services.registry.find(request.match_info["name"])
    found = describe(() if spec is None else (spec,), services.storage)
    return web.Response(text=wire.dumps(found), content_type="application/json")


async def packs(request: web.Request) -> web.Response:
    """GET /tessera/packs: the node packs, and what became of each."""
    return web.json_response([wire.pack(pack) for pack in request.app[SERVICES].loaded])


ROUTES = (
    web.get("/object_info", all_classes),
    web.get("/object_info/{name}", one_class),
    web.get("/tessera/packs", packs),
)
