"""What the engine does, for people and for Prometheus."""

from aiohttp import web

from web import wire
from web.prometheus import CONTENT_TYPE, exposition
from web.services import SERVICES


async def pool(request: web.Request) -> web.Response:
    """GET /tessera/pool: devices, what they hold and run, who waits, and the last decisions."""
    view = request.app[SERVICES].engine.pool_view()
    return web.json_response(wire.pool(view), headers={"Cache-Control": "no-store"})


async def metrics(request: web.Request) -> web.Response:
    """GET /metrics: Prometheus' text format."""
    engine = request.app[SERVICES].engine
    page = exposition(engine.metrics(), engine.pool_view())
    return web.Response(body=page, headers={"Content-Type": CONTENT_TYPE})


ROUTES = (web.get("/tessera/pool", pool),)
UNTWINNED = (web.get("/metrics", metrics),)  # where Prometheus looks; not under /api
