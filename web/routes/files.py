"""Pictures and other files: view, upload, and the lists of what is there."""

import asyncio
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from aiohttp import web
from aiohttp.http import HttpProcessingError

from backend.errors import BadFile
from backend.storage import PLACE_KINDS, OutsideFolder, PlaceKind, Storage, split_annotation
from backend.values import frozen
from web import pictures, wire
from web.assets import content_type
from web.services import SERVICES
from web.users import write_bytes

# A page of these types would run with the rights of our own pages.
_ACTIVE = (
    "text/html",
    "application/xhtml+xml",
    "text/javascript",
    "application/javascript",
    "text/css",
    "image/svg+xml",
)


@frozen
class Upload:
    """The parts of an upload form. original: the picture that a mask belongs to."""

    name: str
    content: bytes
    kind: PlaceKind
    subfolder: str
    overwrite: bool
    original: object = None


async def view(request: web.Request) -> web.StreamResponse:
    """GET /view: a file of the output, input or temp folder, perhaps re-encoded."""
    query = request.query
    if "filename" not in query:
        return web.Response(status=404)
    name, kind = split_annotation(query["filename"])
    kind_asked = kind or query.get("type", "output")
    if not name or name.startswith("/") or ".." in name or kind_asked not in PLACE_KINDS:
        return web.Response(status=400)
    base = os.path.basename(name)
    try:
        path = request.app[SERVICES].storage.resolve(kind_asked, query.get("subfolder", ""), base)
    except OutsideFolder:
        return web.Response(status=403)
    if not path.is_file():
        return web.Response(status=404)
    disposition = {"Content-Disposition": f'filename="{_quoted(base)}"'}
    try:
        if changed := await asyncio.to_thread(_changed, path, query.get("preview"), query.get("channel", "")):
            return web.Response(body=changed[0], content_type=changed[1], headers=disposition)
    except BadFile as error:
        return web.Response(status=400, text=str(error))
    return web.FileResponse(path, headers={**disposition, "Content-Type": passive(content_type(base))})


def _changed(path: Path, preview: str | None, channel: str) -> tuple[bytes, str] | None:
    """The picture as the query wants it, with its type; None: the file as it is."""
    if preview is not None:
        return pictures.preview(path, preview, channel)
    if channel == "rgb":
        return pictures.colours(path), "image/png"
    return (pictures.alpha(path), "image/png") if channel == "a" else None


def passive(kind: str) -> str:
    """A MIME type that no browser shows as a page of ours."""
    plain = kind.partition(";")[0].strip().lower()
    active = plain in _ACTIVE or plain.endswith("xml")
    return "application/octet-stream" if active else kind


def _quoted(name: str) -> str:
    return "".join(c for c in name if c.isprintable()).replace("\\", "\\\\").replace('"', '\\"')


async def upload_image(request: web.Request) -> web.Response:
    """POST /upload/image: store a file of any type as it is."""
    services = request.app[SERVICES]
    upload = await _read(request)
    path = _target(services.storage, upload)
    async with services.writing:
        return await asyncio.to_thread(_store, upload, path, upload.content, services.settings.upload_hash)


async def upload_mask(request: web.Request) -> web.Response:
    """POST /upload/mask: the original picture with the upload's alpha."""
    services = request.app[SERVICES]
    upload = await _read(request)
    original = _original(services.storage, upload.original)
    path = _target(services.storage, upload)
    if original is None:  # ComfyUI's clients expect no failure here, and nothing to be saved
        return web.json_response(wire.uploaded(upload.name, upload.subfolder, upload.kind))
    try:
        content = await asyncio.to_thread(pictures.masked, original, upload.content)
    except BadFile as error:
        return web.Response(status=400, text=str(error))
    async with services.writing:
        return await asyncio.to_thread(_store, upload, path, content, services.settings.upload_hash)


async def _read(request: web.Request) -> Upload:
    """The form of an upload. Raises: HTTPBadRequest."""
    try:
        form = await request.post()
    except (ValueError, LookupError, HttpProcessingError) as error:
        raise web.HTTPBadRequest(text=f"The upload's form can't be read: {error}.") from error
    try:
        return await _parts(form)
    finally:
        for field in form.values():
            if isinstance(field, web.FileField):
                field.file.close()


async def _parts(form: Mapping[str, str | bytes | bytearray | web.FileField]) -> Upload:
    image, kind = form.get("image"), str(form.get("type") or "input")
    if not isinstance(image, web.FileField) or not image.filename:
        raise web.HTTPBadRequest(text="")
    if kind not in PLACE_KINDS:
        raise web.HTTPBadRequest(text=f"type={kind!r}: use one of {', '.join(PLACE_KINDS)}.")
    return Upload(
        name=image.filename,
        content=await asyncio.to_thread(image.file.read),
        kind=kind,
        subfolder=str(form.get("subfolder") or ""),
        overwrite=form.get("overwrite") in ("true", "1"),
        original=form.get("original_ref"),
    )


def _target(storage: Storage, upload: Upload) -> Path:
    """Where an upload goes, unless something else lies there. Raises: HTTPBadRequest outside the folder."""
    try:
        path = storage.resolve(upload.kind, upload.subfolder, upload.name)
        if path == storage.resolve(upload.kind, "", "") or path.is_dir():
            raise web.HTTPBadRequest(text=f"{upload.name!r} names no file.")
    except OutsideFolder as error:
        raise web.HTTPBadRequest(text="") from error
    return path


def _original(storage: Storage, reference: object) -> Path | None:
    """The picture that `original_ref` names; None where there is none. Raises: HTTPBadRequest."""
    try:
        named = json.loads(reference) if isinstance(reference, str) else None
    except ValueError as error:
        raise web.HTTPBadRequest(text=f"original_ref is not valid JSON: {error}.") from error
    if not isinstance(named, dict) or not isinstance(named.get("filename"), str):
        raise web.HTTPBadRequest(
            text='original_ref must be {"filename": ..., "subfolder"?: ..., "type"?: ...}.'
        )
    name, kind = split_annotation(named["filename"])
    if not name or name.startswith("/") or ".." in name:
        return None
    try:
        place = kind or str(named.get("type") or "output")
        path = storage.resolve(place, str(named.get("subfolder") or ""), os.path.basename(name))
    except BadFile as error:
        raise web.HTTPBadRequest(text=str(error)) from error
    return path if path.is_file() else None


def _store(upload: Upload, path: Path, content: bytes, hashed: str) -> web.Response:
    """Write under a free name, or not at all where the same content is there already."""
    free = path if upload.overwrite else _free(path, content, hashed)
    if upload.overwrite or not free.exists():
        try:
            write_bytes(free, content)
        except OSError as error:
            raise web.HTTPBadRequest(text=f"{upload.name!r} can't be written: {error.strerror}.") from error
    name = os.path.join(os.path.dirname(upload.name), free.name)
    return web.json_response(wire.uploaded(name, upload.subfolder, upload.kind))


def _free(path: Path, content: bytes, hashed: str) -> Path:
    """`path`, or `name (1).ext` and so on: the first that is free or holds this content, by its hash."""
    digest, candidate, count = hashlib.new(hashed, content).digest(), path, 0
    while candidate.exists():
        if candidate.is_file() and candidate.stat().st_size == len(content):
            with candidate.open("rb") as file:
                if hashlib.file_digest(file, hashed).digest() == digest:
                    return candidate
        count += 1
        candidate = path.with_name(f"{path.stem} ({count}){path.suffix}")
    return candidate


async def list_place(request: web.Request) -> web.Response:
    """GET /internal/files/{input,output,temp}: names at its top level, newest first."""
    kind = request.match_info["kind"]
    if kind not in PLACE_KINDS:
        return web.json_response(
            wire.error(f"Unknown folder {kind!r}: use {', '.join(PLACE_KINDS)}."), status=400
        )
    folder = request.app[SERVICES].storage.place(kind)
    return web.json_response(await asyncio.to_thread(_newest_first, folder))


def _newest_first(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        found = [
            (e.stat().st_mtime_ns, e.name) for e in entries if e.is_file() and not e.name.startswith(".")
        ]
    return [name for _, name in sorted(found, reverse=True)]


ROUTES = (
    web.get("/view", view),
    web.post("/upload/image", upload_image),
    web.post("/upload/mask", upload_mask),
)
INTERNAL = (web.get("/internal/files/{kind}", list_place),)
