"""The queue, the history, and what stops jobs."""

from aiohttp import web

from backend.types import JobId
from web import wire
from web.body import query_int, read_object, read_optional_object, strings
from web.services import SERVICES


async def get_queue(request: web.Request) -> web.Response:
    """GET /queue"""
    return web.json_response(wire.queue(*request.app[SERVICES].engine.queue()), dumps=wire.dumps)


async def change_queue(request: web.Request) -> web.Response:
    """POST /queue: take pending jobs out of it, all of them or some."""
    engine, body = request.app[SERVICES].engine, await read_object(request)
    if body.get("clear"):
        await engine.cancel_pending(None)
    if "delete" in body:
        await engine.cancel_pending([JobId(i) for i in strings(body["delete"], "delete")])
    return web.Response()


async def get_history(request: web.Request) -> web.Response:
    """GET /history: finished jobs, oldest first."""
    limit, offset = query_int(request, "max_items"), query_int(request, "offset")
    records = await request.app[SERVICES].engine.store.history(limit, offset)
    return web.json_response(wire.history(records), dumps=wire.dumps)


async def get_history_entry(request: web.Request) -> web.Response:
    """GET /history/{prompt_id}: {} while the job is unknown or unfinished."""
    record = await request.app[SERVICES].engine.store.history_one(request.match_info["prompt_id"])
    return web.json_response(wire.history([] if record is None else [record]), dumps=wire.dumps)


async def change_history(request: web.Request) -> web.Response:
    """POST /history: forget finished jobs, all of them or some."""
    store, body = request.app[SERVICES].engine.store, await read_object(request)
    if body.get("clear"):
        await store.clear_history()
    if "delete" in body:
        await store.delete_history(strings(body["delete"], "delete"))
    return web.Response()


async def interrupt(request: web.Request) -> web.Response:
    """POST /interrupt: stop the job of that id if it runs; without an id, whatever runs."""
    job = (await read_optional_object(request)).get("prompt_id")
    await request.app[SERVICES].engine.interrupt(None if job is None else JobId(str(job)))
    return web.Response()


async def free(request: web.Request) -> web.Response:
    """POST /free: unload models, and forget results too."""
    body = await read_object(request)
    await request.app[SERVICES].engine.free(bool(body.get("unload_models")), bool(body.get("free_memory")))
    return web.Response()


ROUTES = (
    web.get("/queue", get_queue),
    web.post("/queue", change_queue),
    web.get("/history", get_history),
    web.get("/history/{prompt_id}", get_history_entry),
    web.post("/history", change_history),
    web.post("/interrupt", interrupt),
    web.post("/free", free),
)
