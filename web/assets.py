"""Files that are served as they are: where front end, help and templates lie, and how a file is sent."""

import importlib.util
import mimetypes
import os
from functools import cached_property
from importlib import import_module
from pathlib import Path
from types import ModuleType

from aiohttp import web

NO_CACHE = {"Cache-Control": "no-cache", "Pragma": "no-cache", "Expires": "0"}
_DAY = {"Cache-Control": "public, max-age=86400"}
_HOUR = {"Cache-Control": "public, max-age=3600"}
_FRESH = {"Cache-Control": "no-cache"}
_IMAGES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
# Systems differ in what their tables know; browsers refuse modules of a wrong type.
_TYPES = {
    ".js": "application/javascript",
    ".mjs": "application/javascript",
    ".css": "text/css",
    ".json": "application/json",
    ".webp": "image/webp",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
    ".wasm": "application/wasm",
    ".md": "text/markdown",
}


def front_end_folder(chosen: Path | None) -> Path | None:
    """The front end to serve: the chosen folder, or the installed package's; None where there is neither."""
    return chosen or _package_folder("comfyui_frontend_package", "static")


def docs_folder() -> Path | None:
    """The folder of the embedded node help."""
    return _package_folder("comfyui_embedded_docs", "docs")


def _package_folder(package: str, folder: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(place) / folder).is_dir():
            return path
    return None


_PLAIN = Path(__file__).parent / "extension" / "template.webp"
_PICTURES = (".webp", ".png", ".jpg", ".jpeg")


class Templates:
    """The workflow templates of whichever template packages are installed, by file name.

    Their pictures lie in large packages of their own. Where these are not installed, every
    picture that the installed ones speak of is a plain one: the page reports each that it can't get.
    """

    def __init__(self) -> None:
        self._folder = _package_folder("comfyui_workflow_templates", "templates")

    @cached_property
    def _ids(self) -> dict[str, str]:
        """File name -> the template it belongs to, as the newer packages' manifest has it."""
        core = _templates_core()
        return (
            {}
            if core is None
            else {a.filename: t.template_id for t in core.iter_templates() for a in t.assets}
        )

    def find(self, name: str) -> Path | None:
        """The file's path; None where no installed package holds it."""
        if self._folder is not None:
            return below(self._folder, name)
        core = _templates_core()
        if core is not None and name.startswith("logo/") and name.endswith(_PICTURES):
            return _PLAIN  # `index_logo.json` names them
        if core is None or name not in self._ids:
            return None
        try:
            return Path(core.get_asset_path(self._ids[name], name))
        except FileNotFoundError:
            return _PLAIN if name.endswith(_PICTURES) else None


def _templates_core() -> ModuleType | None:
    """The newer template packages' manifest helper, which knows what part holds which file."""
    name = "comfyui_workflow_templates_core"
    return import_module(name) if importlib.util.find_spec(name) else None


def below(root: Path, name: str) -> Path | None:
    """The file of that name below a folder; links in it are followed. None if there is none."""
    if "\0" in name:
        return None
    path = Path(os.path.normpath(root / name))
    return path if path.is_relative_to(root) and path.is_file() else None


def content_type(name: str) -> str:
    """The MIME type of a file name; `application/octet-stream` if it is not known."""
    known = _TYPES.get(os.path.splitext(name)[1].lower())
    return known or mimetypes.guess_type(name)[0] or "application/octet-stream"


def send(path: Path | None) -> web.StreamResponse:
    """A file with Range, ETag and Last-Modified, or 404."""
    if path is None:
        return not_found()
    return web.FileResponse(path, headers={"Content-Type": content_type(path.name)})


def not_found() -> web.Response:
    """A plain 404, never the index page: the front end tells files from pages by it."""
    return web.Response(status=404, headers={"Content-Type": "application/octet-stream"})


def cache_headers(path: str, status: int) -> dict[str, str]:
    """What ComfyUI says of caching, by the request's path and the answer's status."""
    name = path.rpartition("/")[2]
    if path.endswith((".js", ".css")) or (name.startswith("index") and name.endswith(".json")):
        return _FRESH
    if not path.lower().endswith(_IMAGES):
        return {}
    if status == 404:
        return _HOUR
    if status in (302, 303, 307):
        return _FRESH
    return _DAY if 200 <= status < 300 or status in (301, 308) else {}


def below_folder(root: Path, name: str) -> bool:
    """Whether a name is a folder below `root`."""
    path = Path(os.path.normpath(root / name))
    return path.is_relative_to(root) and path.is_dir()
