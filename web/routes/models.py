"""Model folders, their files, and what is known of a model file."""

import asyncio
import base64
import binascii
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path

from aiohttp import web

from backend.errors import BadFile
from backend.storage import Storage
from web import pictures, wire
from web.assets import below
from web.services import SERVICES

NOT_MODELS = ("configs", "custom_nodes")
_HEADER_LIMIT = 100 << 20  # bytes; no file's header comes near it
_PREVIEWS = (
    ".preview.png",
    ".png",
    ".preview.webp",
    ".webp",
    ".preview.jpg",
    ".jpg",
    ".preview.jpeg",
    ".jpeg",
)


async def embeddings(request: web.Request) -> web.Response:
    """GET /embeddings: names without extension."""
    names = await asyncio.to_thread(request.app[SERVICES].storage.files, "embeddings")
    return web.json_response([os.path.splitext(name)[0] for name in names])


async def folders(request: web.Request) -> web.Response:
    """GET /models"""
    return web.json_response(request.app[SERVICES].storage.kinds())


async def files(request: web.Request) -> web.Response:
    """GET /models/{folder}"""
    storage, kind = request.app[SERVICES].storage, request.match_info["folder"]
    if kind not in storage.kinds():
        return web.Response(status=404)
    return web.json_response(await asyncio.to_thread(storage.files, kind))


async def experiment_folders(request: web.Request) -> web.Response:
    """GET /experiment/models"""
    storage = request.app[SERVICES].storage
    kinds = [kind for kind in storage.kinds() if kind not in NOT_MODELS]
    return web.json_response([wire.model_folder(kind, storage.folders(kind)) for kind in kinds])


async def experiment_files(request: web.Request) -> web.Response:
    """GET /experiment/models/{folder}"""
    storage, kind = request.app[SERVICES].storage, request.match_info["folder"]
    if kind not in storage.kinds():
        return web.Response(status=404)
    return web.json_response(await asyncio.to_thread(_described, storage, kind))


def _described(storage: Storage, kind: str) -> list[wire.Json]:
    """Every file of a kind in every folder: a name that several folders have is shown for each."""
    names = storage.files(kind)
    found = []
    for index, folder in enumerate(storage.folders(kind)):
        paths = ((name, folder / name) for name in names)
        found += [wire.model_file(name, index, path) for name, path in paths if path.is_file()]
    return found


async def preview(request: web.Request) -> web.Response:
    """GET /experiment/models/preview/{folder}/{index}/{file}: the picture beside a model, or inside it.

    Only the file's name without its ending counts: the page asks for `name.webp`.
    """
    storage, match = request.app[SERVICES].storage, request.match_info
    if match["folder"] not in storage.kinds():
        return web.Response(status=404)
    folders, index = storage.folders(match["folder"]), int(match["index"])
    stem = os.path.splitext(match["file"])[0]
    picture = await asyncio.to_thread(_picture, folders[index], stem) if index < len(folders) else None
    return (
        web.Response(status=404) if picture is None else web.Response(body=picture, content_type="image/webp")
    )


def _picture(folder: Path, stem: str) -> bytes | None:
    """WebP; None where there is no picture that can be read."""
    try:
        beside = filter(None, (below(folder, stem + ending) for ending in _PREVIEWS))
        if (path := next(beside, None)) is not None:
            return pictures.webp(path)
        model = below(folder, f"{stem}.safetensors")
        cover = None if model is None else _cover(safetensors_metadata(model))
        return None if cover is None else pictures.encoded(pictures.open_picture(cover, stem), "webp")
    except (BadFile, OSError):
        return None


def _cover(metadata: dict[str, object] | None) -> io.BytesIO | None:
    """The picture that training tools put into a header: a JSON list of base64 texts."""
    covers = (metadata or {}).get("ssmd_cover_images")
    try:
        images: Sequence[str] = json.loads(covers) if isinstance(covers, str) else ()
        return io.BytesIO(base64.b64decode(images[0])) if images else None
    except (ValueError, binascii.Error, TypeError, KeyError):
        return None


async def metadata(request: web.Request) -> web.Response:
    """GET /view_metadata/{folder}?filename=: the `__metadata__` of a safetensors header."""
    storage, name = request.app[SERVICES].storage, request.query.get("filename", "")
    try:
        path = storage.find(request.match_info["folder"], name)
        found = await asyncio.to_thread(safetensors_metadata, path)
    except (BadFile, OSError):
        found = None
    return web.Response(status=404) if found is None else web.json_response(found)


def safetensors_metadata(path: Path) -> dict[str, object] | None:
    """What its maker wrote into the header; None if the file is no safetensors file or says nothing."""
    if path.suffix != ".safetensors":
        return None
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(_HEADER_LIMIT, path.stat().st_size):
            return None
        try:
            header = json.loads(file.read(length))
        except ValueError:
            return None
    found = header.get("__metadata__") if isinstance(header, dict) else None
    return found if isinstance(found, dict) else None


ROUTES = (
    web.get("/embeddings", embeddings),
    web.get("/models", folders),
    web.get("/models/{folder}", files),
    web.get("/experiment/models", experiment_folders),
    web.get("/experiment/models/{folder}", experiment_files),
    web.get(r"/experiment/models/preview/{folder}/{index:\d+}/{file:.+}", preview),
    web.get("/view_metadata/{folder}", metadata),
)
