"""POST /prompt, and what is left to run."""

import logging

from aiohttp import web

from backend.errors import QueueFull
from backend.graph.validate import Refused
from comfy_compat.bridge import OnPrompt
from web import wire
from web.body import read_json
from web.services import SERVICES
from web.submission import BadSubmission, read_submission

log = logging.getLogger(__name__)


async def submit(request: web.Request) -> web.Response:
    """POST /prompt: into the queue, or 400 with what is wrong with it, or 429 where the queue is full."""
    body, services = await read_json(request), request.app[SERVICES]
    for handler in services.on_prompt:
        body = _handled(handler, body)
    try:
        answer = await services.engine.submit(read_submission(body))
    except BadSubmission as error:
        if not isinstance(body, dict) or "number" not in body:
            services.engine.store.next_number()  # rejected requests count, as clients may see
        return web.json_response(wire.bad_submission(error.code, error.message, error.details), status=400)
    except QueueFull as full:
        told = wire.bad_submission(full.code, "The queue is full", str(full))
        return web.json_response(told, status=429, headers={"Retry-After": str(full.retry_after)})
    except Refused as refusal:
        return web.json_response(wire.refused(refusal), status=400)
    return web.json_response(wire.accepted(answer), dumps=wire.dumps)


def _handled(handler: OnPrompt, body: object) -> object:
    """What a node pack makes of a request; one that raises changes nothing."""
    if not isinstance(body, dict):
        return body
    try:
        return handler(body)
    except Exception:  # around a custom node
        log.warning("a node pack's on-prompt handler raised; the prompt goes on without it", exc_info=True)
        return body


async def remaining(request: web.Request) -> web.Response:
    """GET /prompt"""
    return web.json_response(wire.exec_info(request.app[SERVICES].engine.remaining()))


ROUTES = (web.post("/prompt", submit), web.get("/prompt", remaining))
