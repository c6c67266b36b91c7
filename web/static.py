"""Files that are served as they are: the front end, packs' scripts, template and help packages."""

from pathlib import Path

from aiohttp import web

from web.assets import NO_CACHE, below, below_folder, docs_folder, not_found, send
from web.services import SERVICES


async def index(request: web.Request) -> web.StreamResponse:
    """GET /"""
    root = request.app[SERVICES].front_end
    if root is None or not (root / "index.html").is_file():
        text = (
            "The front end is not installed. Install it with `pip install comfyui-frontend-package`, "
            "or name its folder with --front-end-root."
        )
        return web.Response(status=404, text=text)
    return web.FileResponse(root / "index.html", headers=NO_CACHE)


async def pack_file(request: web.Request) -> web.StreamResponse:
    """GET /extensions/<pack>/<file>: a pack's own folder, or the front end's."""
    services, pack, name = request.app[SERVICES], request.match_info["pack"], request.match_info["file"]
    if (folder := services.packs.get(pack)) is not None:
        return send(below(folder, name))
    return front_end_file(services.front_end, f"extensions/{pack}/{name}")


async def any_file(request: web.Request) -> web.StreamResponse:
    """GET of any other path: a file of the front end."""
    return front_end_file(request.app[SERVICES].front_end, request.match_info["file"])


def front_end_file(root: Path | None, name: str) -> web.StreamResponse:
    """A file of the front end; 403 for a folder, 404 for nothing."""
    if root is None:
        return not_found()
    path = below(root, name)
    if path is None and name and "\0" not in name and below_folder(root, name):
        return web.Response(status=403)
    return send(path)


async def template_file(request: web.Request) -> web.StreamResponse:
    """GET /templates/<file>"""
    return send(request.app[SERVICES].templates.find(request.match_info["file"]))


async def docs_file(request: web.Request) -> web.StreamResponse:
    """GET /docs/<Class>/<locale>.md"""
    folder = docs_folder()
    return send(None if folder is None else below(folder, request.match_info["file"]))


ROUTES = (
    web.get("/", index),
    web.get("/extensions/{pack}/{file:.+}", pack_file),
    web.get("/templates/{file:.+}", template_file),
    web.get("/docs/{file:.+}", docs_file),
)
FALLBACK = web.get("/{file:.+}", any_file)
