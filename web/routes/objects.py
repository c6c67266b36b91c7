"""Node classes as the front end reads them."""

import asyncio

from aiohttp import web

from comfy_compat.object_info import object_info
from web import wire
from web.services import SERVICES


async def all_classes(request: web.Request) -> web.Response:
    """GET /object_info"""
    services = request.app[SERVICES]

    def describe() -> str:
        return wire.dumps({spec.name: object_info(spec, services.storage) for spec in services.registry})

    return web.Response(text=await asyncio.to_thread(describe), content_type="application/json")


async def one_class(request: web.Request) -> web.Response:
    """GET /object_info/{class}: {} for a class that does not exist."""
    services = request.app[SERVICES]
    spec = services.registry.find(request.match_info["name"])
    return web.json_response({} if spec is None else {spec.name: object_info(spec, services.storage)})


ROUTES = (web.get("/object_info", all_classes), web.get("/object_info/{name}", one_class))
