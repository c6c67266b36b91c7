"""Reading requests: bodies and query numbers, with a 400 that says what is wrong."""

import json

from aiohttp import web


async def read_json(request: web.Request) -> object:
    """The body as JSON, whatever its content type. Raises: HTTPBadRequest, HTTPRequestEntityTooLarge."""
    raw = await request.read()
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise web.HTTPBadRequest(text=f"The request's body is not valid JSON: {error}.") from error


async def read_object(request: web.Request) -> dict[str, object]:
    """The body as a JSON object. Raises: as `read_json`."""
    value = await read_json(request)
    if not isinstance(value, dict):
        raise web.HTTPBadRequest(
            text=f"The request's body must be a JSON object, not {type(value).__name__}."
        )
    return value


async def read_optional_object(request: web.Request) -> dict[str, object]:
    """The body as a JSON object; {} where there is no body. Raises: as `read_json`."""
    return await read_object(request) if (await request.read()).strip() else {}


def strings(value: object, name: str) -> list[str]:
    """A JSON list of ids. Raises: HTTPBadRequest."""
    if not isinstance(value, list):
        raise web.HTTPBadRequest(text=f"{name!r} must be a list of ids, not {type(value).__name__}.")
    return [str(item) for item in value]


def query_int(request: web.Request, name: str) -> int | None:
    """A whole number from the query; None where it is absent. Raises: HTTPBadRequest."""
    text = request.query.get(name)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError as error:
        raise web.HTTPBadRequest(text=f"{name}={text!r} is not a whole number.") from error


def query_true(request: web.Request, name: str, default: bool = False) -> bool:
    """A switch from the query: only the word `true` (any case) is true."""
    text = request.query.get(name)
    return default if text is None else text.lower() == "true"
