"""Users and their settings."""

from aiohttp import web

from web import wire
from web.body import read_json, read_object
from web.services import SERVICES
from web.users import DuplicateUser


def user_of(request: web.Request) -> str:
    """The user id that a request speaks for. Raises: UnknownUser."""
    return request.app[SERVICES].users.identify(request.headers.get("comfy-user"))


async def get_users(request: web.Request) -> web.Response:
    """GET /users"""
    users = request.app[SERVICES].users
    if users.multiple:
        return web.json_response(wire.users(users.names))
    return web.json_response(wire.single_user(migrated=users.folder(users.identify(None)).exists()))


async def add_user(request: web.Request) -> web.Response:
    """POST /users"""
    name = (await read_object(request)).get("username")
    try:
        if not isinstance(name, str):
            raise ValueError("The body has no text under `username`.")
        return web.json_response(request.app[SERVICES].users.add(name))
    except (DuplicateUser, ValueError) as error:
        return web.json_response(wire.error(str(error)), status=400)


async def get_settings(request: web.Request) -> web.Response:
    """GET /settings"""
    return web.json_response(request.app[SERVICES].users.settings(user_of(request)))


async def get_setting(request: web.Request) -> web.Response:
    """GET /settings/{id}: null where it was never set."""
    settings = request.app[SERVICES].users.settings(user_of(request))
    return web.json_response(settings.get(request.match_info["id"]))


async def change_settings(request: web.Request) -> web.Response:
    """POST /settings: several at once."""
    user = user_of(request)
    request.app[SERVICES].users.change_settings(user, await read_object(request))
    return web.Response()


async def change_setting(request: web.Request) -> web.Response:
    """POST /settings/{id}: one, the body is its value."""
    user = user_of(request)
    request.app[SERVICES].users.change_settings(user, {request.match_info["id"]: await read_json(request)})
    return web.Response()


ROUTES = (
    web.get("/users", get_users),
    web.post("/users", add_user),
    web.get("/settings", get_settings),
    web.post("/settings", change_settings),
    web.get("/settings/{id}", get_setting),
    web.post("/settings/{id}", change_setting),
)
