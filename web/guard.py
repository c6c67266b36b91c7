"""What holds for every request: origin check or CORS, OPTIONS, headers, and clear answers to errors."""

import asyncio
import errno
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable
from urllib.parse import SplitResult, urlsplit

from aiohttp import web

from backend.storage import OutsideFolder
from web.access import refusal
from web.assets import cache_headers
from web.services import SERVICES
from web.users import UnknownUser

_BAD_NAMES = (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL)  # what a file system says of some names
log = logging.getLogger(__name__)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse other sites' pages, answer OPTIONS, turn errors into replies."""
    services = request.app[SERVICES]
    host, origin = request.headers.get("Host", ""), request.headers.get("Origin")
    strict = services.settings.enable_cors_header is None
    if strict and origin is not None and not await same_origin(host, origin):
        log.warning("Refused a request of %s to %s: another site's page.", origin, host)
        return web.Response(status=403)
    if request.method == "OPTIONS":
        return web.Response()
    if not services.access.allows(request):
        return refusal()
    if services.access.signs_in(request):
        return services.access.signed_in(request)
    answer = await _answered(request, handler)
    return compressed(request, answer) if services.settings.compress_responses else answer


async def _answered(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A handler's answer, or what there is to say of its error."""
    try:
        return await handler(request)
    except (web.HTTPException, ConnectionResetError, asyncio.CancelledError):
        raise
    except UnknownUser as error:
        return web.Response(status=401, text=str(error))
    except OutsideFolder as error:
        return web.Response(status=403, text=str(error))
    except RecursionError:
        return web.Response(status=400, text="The request's body is nested too deeply.")
    except UnicodeEncodeError as error:
        return web.Response(status=400, text=f"A name in the request is no text: {error}.")
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _BAD_NAMES:
            return web.Response(status=400, text=f"The file's name can't be used: {error.strerror}.")
        log.exception("%s %s failed", request.method, request.path)
        return web.Response(status=500, text=f"500 Internal Server Error: {type(error).__name__}: {error}")


def compressed(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """JSON and text in gzip, where the client takes it."""
    if isinstance(response, web.Response):
        text = response.content_type in ("application/json", "text/plain") and response.body
        if text and "gzip" in request.headers.get("Accept-Encoding", "").lower():
            response.enable_compression(web.ContentCoding.gzip)
    return response


async def same_origin(host: str, origin: str) -> bool:
    """Whether a page of `origin` may talk to us as `host`; any may where `host` is not the loopback.

    Ports are compared only where both sides name one.
    """
    to, came = _split(f"//{host.lower()}"), _split(origin.lower())
    if to is None or came is None or not to.hostname or not came.hostname:
        return True
    equal = to.hostname == came.hostname and (to.port is None or came.port is None or to.port == came.port)
    return equal or not await is_loopback(to.hostname)


def _split(address: str) -> SplitResult | None:
    try:
        parts = urlsplit(address)
        _ = parts.port  # raises where it is no number
    except ValueError:
        return None
    return parts


async def is_loopback(host: str) -> bool:
    """Whether a host name means this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        pass
    if host == "localhost":
        return True
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return bool(found) and all(
        ipaddress.ip_address(str(a[4][0]).partition("%")[0]).is_loopback for a in found
    )


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Just before an answer leaves: caching and CORS."""
    settings = request.app[SERVICES].settings
    for name, value in cache_headers(request.path, response.status).items():
        response.headers.setdefault(name, value)
    if settings.enable_cors_header is not None:
        response.headers.update(
            {
                "Access-Control-Allow-Origin": settings.enable_cors_header,
                "Access-Control-Allow-Methods": "POST, GET, DELETE, PUT, PATCH, OPTIONS",
                "Access-Control-Allow-Headers": "Content-Type, Authorization, traceparent, tracestate",
                "Access-Control-Allow-Credentials": "true",
            }
        )
