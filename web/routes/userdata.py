"""A user's files: saved workflows, bookmarks ... A file's name is one percent-encoded part of the path."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

from aiohttp import web

from backend.storage import OutsideFolder
from web import wire
from web.assets import send
from web.body import query_true
from web.routes.users import user_of
from web.services import SERVICES
from web.users import UnknownUser, write_bytes


def path_of(request: web.Request, part: str) -> Path:
    """The file that a part of the path names. Raises: UnknownUser, HTTPForbidden, HTTPBadRequest."""
    users, user = request.app[SERVICES].users, user_of(request)
    name = request.match_info[part]
    try:
        path = users.path(user, name)
    except OutsideFolder as error:
        raise web.HTTPForbidden(text="") from error
    if path == users.folder(user):
        raise web.HTTPBadRequest(text=f"{name!r} names no file.")
    return path


def _keeps(request: web.Request) -> bool:
    """Whether a file that is there must stay: only the word `false` says so."""
    return request.query.get("overwrite", "").lower() == "false"


def described(request: web.Request, path: Path) -> web.Response:
    """The answer to a write: the name below the user's folder, or all that is known of the file."""
    name = path.relative_to(request.app[SERVICES].users.folder(user_of(request))).as_posix()
    return web.json_response(wire.file_info(path, name) if query_true(request, "full_info") else name)


async def list_files(request: web.Request) -> web.Response:
    """GET /userdata?dir=: the files of a folder, perhaps with all below it."""
    directory = request.query.get("dir")
    if not directory:
        return web.Response(status=400, text="Directory not provided")
    try:
        folder = request.app[SERVICES].users.path(user_of(request), directory)
    except OutsideFolder:
        return web.Response(status=403, text="Invalid directory")
    if not folder.is_dir():
        return web.Response(status=404, text="Directory not found")
    names = await asyncio.to_thread(lambda: sorted(_names(folder, query_true(request, "recurse"))))
    if query_true(request, "full_info"):
        return web.json_response([wire.file_info(folder / n, n) for n in names if (folder / n).is_file()])
    if query_true(request, "split"):
        return web.json_response([[n, *n.split("/")] for n in names])
    return web.json_response(names)


def _names(folder: Path, recurse: bool) -> Iterator[str]:
    for path, folders, files in os.walk(folder):
        if not recurse:
            folders.clear()
        for file in files:
            yield (Path(path) / file).relative_to(folder).as_posix()


async def read_file(request: web.Request) -> web.StreamResponse:
    """GET /userdata/{file}"""
    path = path_of(request, "file")
    return send(path) if path.is_file() else web.Response(status=404)


async def write_file(request: web.Request) -> web.Response:
    """POST /userdata/{file}"""
    path, content = path_of(request, "file"), await request.read()
    async with request.app[SERVICES].writing:
        if _keeps(request) and path.exists():
            return web.Response(status=409, text="File already exists")
        if path.is_dir():
            return web.Response(status=400, text=f"{path.name!r} is a folder.")
        try:
            await asyncio.to_thread(write_bytes, path, content)
        except OSError as error:
            return web.Response(status=400, text=f"The file can't be written: {error.strerror}.")
    return described(request, path)


async def delete_file(request: web.Request) -> web.Response:
    """DELETE /userdata/{file}"""
    path = path_of(request, "file")
    if not path.is_file():
        return web.Response(status=404)
    path.unlink()
    return web.Response(status=204)


async def move_file(request: web.Request) -> web.Response:
    """POST /userdata/{file}/move/{dest}"""
    source, target = path_of(request, "file"), path_of(request, "dest")
    if not source.is_file():
        return web.Response(status=404)
    if _keeps(request) and target.exists():
        return web.Response(status=409, text="File already exists")
    if target.is_dir():
        return web.Response(status=400, text=f"{target.name!r} is a folder.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(source, target)
    except OSError as error:
        return web.Response(status=400, text=f"The file can't be moved: {error.strerror}.")
    return described(request, target)


async def list_tree(request: web.Request) -> web.Response:
    """GET /v2/userdata: everything below a folder, folders first."""
    users = request.app[SERVICES].users
    try:
        user = user_of(request)
    except UnknownUser as error:  # other routes say 401, clients of this one know a 403
        return web.Response(status=403, text=str(error))
    wanted = request.query.get("path", "")
    root = users.folder(user)
    try:
        folder = users.path(user, wanted) if wanted else root
    except OutsideFolder:
        return web.Response(status=400, text="Invalid path requested")
    if not folder.exists():
        return web.Response(status=404, text="Requested path not found")
    if not folder.is_dir():
        return web.Response(status=400, text="Requested path is not a directory")
    found = await asyncio.to_thread(
        lambda: sorted(folder.rglob("*"), key=lambda p: (not p.is_dir(), p.name.lower(), p))
    )
    return web.json_response([wire.directory_entry(p, p.relative_to(root).as_posix()) for p in found])


ROUTES = (
    web.get("/userdata", list_files),
    web.get("/v2/userdata", list_tree),
    web.get("/userdata/{file}", read_file),
    web.post("/userdata/{file}", write_file),
    web.delete("/userdata/{file}", delete_file),
    web.post("/userdata/{file}/move/{dest}", move_file),
)
