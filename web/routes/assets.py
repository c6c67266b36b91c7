"""Assets and their tags, for newer clients: uploads by content, lists by tag, labels changed later."""

import asyncio
import json
import re
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath
from urllib.parse import quote

from aiohttp import web
from aiohttp.http import HttpProcessingError

from backend.engine.assets import ASSET_SORTS, Asset, Filter, content_hash, destination, in_order, tag_counts
from web import wire
from web.assets import content_type
from web.routes.files import passive
from web.routes.users import user_of
from web.services import SERVICES

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_HASH = re.compile(r"blake3:[0-9a-f]{64}")
_PAGE, _TAG_PAGE = 500, 1000  # at most, of assets and of tags
_LONGEST = 512  # characters of a name


class Refusal(Exception):
    """A request that can't be answered, with what clients are told of it."""

    def __init__(self, status: int, code: str, message: str) -> None:
        self.status, self.code = status, code
        super().__init__(message)


def answers(handler: Handler) -> Handler:
    """The handler, its refusals as JSON."""

    async def refusing(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except Refusal as refusal:
            told = wire.asset_error(refusal.code, str(refusal))
            return web.json_response(told, status=refusal.status)

    refusing.__doc__ = handler.__doc__
    return refusing


@answers
async def list_assets(request: web.Request) -> web.Response:
    """GET /api/assets: one page of those that fit."""
    query = request.query
    limit = _number(query.get("limit"), "limit", 20, 1, _PAGE)
    offset = _number(query.get("offset"), "offset", 0, 0)
    sort = next((s for s in ASSET_SORTS if s == query.get("sort", ASSET_SORTS[0])), None)
    if sort is None or query.get("order", "desc") not in ("asc", "desc"):
        raise Refusal(400, "INVALID_QUERY", f"sort is one of {', '.join(ASSET_SORTS)}; order asc or desc.")
    fitting = await _fitting(request)
    shown = in_order(fitting, sort, query.get("order", "desc") == "desc")[offset : offset + limit]
    page = wire.asset_page([wire.held_asset(a) for a in shown], len(fitting), offset)
    return web.json_response(page)


@answers
async def list_tags(request: web.Request) -> web.Response:
    """GET /api/tags: how many assets have each; with include_zero, those that folders stand for too."""
    query, services = request.query, request.app[SERVICES]
    limit = _number(query.get("limit"), "limit", 100, 1, _TAG_PAGE)
    offset = _number(query.get("offset"), "offset", 0, 0)
    order = query.get("order", "count_desc")
    if order not in ("count_desc", "name_asc"):
        raise Refusal(400, "INVALID_QUERY", f"order={order!r}: use count_desc or name_asc.")
    known = ("input", "output", "models", *(f"model_type:{kind}" for kind in services.storage.kinds()))
    zero = query.get("include_zero", "true").lower() != "false"
    counts = tag_counts(await services.shelf.listed(user_of(request)), known if zero else ())
    found = [(n, c) for n, c in counts.items() if n.startswith(query.get("prefix", "").strip())]
    found.sort(key=lambda pair: pair if order == "name_asc" else (-pair[1], pair[0]))
    return web.json_response(wire.tag_page(found[offset : offset + limit], len(found), offset))


@answers
async def refine_tags(request: web.Request) -> web.Response:
    """GET /api/assets/tags/refine: the tags of those that fit."""
    limit = _number(request.query.get("limit"), "limit", 100, 1, _TAG_PAGE)
    counts = tag_counts(await _fitting(request))
    return web.json_response(wire.tag_histogram(counts.most_common(limit)))


@answers
async def get_asset(request: web.Request) -> web.Response:
    """GET /api/assets/{id}"""
    return web.json_response(wire.held_asset(await _asked(request)))


async def has_hash(request: web.Request) -> web.Response:
    """HEAD /api/assets/hash/{hash}: whether these bytes are here."""
    hash = request.match_info["hash"].strip().lower()
    if not _HASH.fullmatch(hash):
        return web.Response(status=400)
    found = await request.app[SERVICES].shelf.holder(hash)
    return web.Response(status=404 if found is None else 200)


@answers
async def asset_content(request: web.Request) -> web.StreamResponse:
    """GET /api/assets/{id}/content: the bytes, to save or (`disposition=inline`) to show."""
    shelf, asset = request.app[SERVICES].shelf, await _asked(request)
    path = await shelf.path(asset)
    if path is None:
        raise Refusal(404, "FILE_NOT_FOUND", f"The file of asset {asset.id} is gone.")
    await shelf.touch(asset)
    kind = passive(asset.mime or content_type(asset.name))
    inline = request.query.get("disposition") == "inline" and kind != "application/octet-stream"
    told = f"{'inline' if inline else 'attachment'}; filename*=UTF-8''{quote(asset.name)}"
    headers = {"Content-Disposition": told, "Content-Type": kind, "X-Content-Type-Options": "nosniff"}
    return web.FileResponse(path, headers=headers)


@answers
async def add_asset(request: web.Request) -> web.Response:
    """POST /api/assets: a file, or the hash of bytes that are here, under a name with tags."""
    if request.content_type != "multipart/form-data":
        raise Refusal(415, "UNSUPPORTED_MEDIA_TYPE", "Send a form (multipart/form-data).")
    try:
        form = await request.post()
    except (ValueError, LookupError, HttpProcessingError) as error:
        raise Refusal(400, "INVALID_BODY", f"The form can't be read: {error}.") from error
    file = form.get("file")
    content = await asyncio.to_thread(file.file.read) if isinstance(file, web.FileField) else None
    filename = file.filename if isinstance(file, web.FileField) else ""
    texts = {name: [str(v) for v in form.getall(name)] for name in form if name != "file"}
    asset, kept = await _added(request, _read_fields(texts), filename, content)
    return web.json_response(wire.held_asset(asset, created_new=kept), status=201 if kept else 200)


@answers
async def add_from_hash(request: web.Request) -> web.Response:
    """POST /api/assets/from-hash: a further name for bytes that are here."""
    body = await _object(request)
    fields = {**body, "name": body.get("name") or str(body.get("hash", "")).partition(":")[2]}
    asset, _ = await _added(request, fields, "", None)
    return web.json_response(wire.held_asset(asset, created_new=False), status=201)


@answers
async def change_asset(request: web.Request) -> web.Response:
    """PUT /api/assets/{id}: another name, metadata or preview."""
    asset, body = await _asked(request), await _object(request)
    given = {key: body[key] for key in ("name", "user_metadata", "preview_id") if body.get(key) is not None}
    if not given:
        raise Refusal(400, "INVALID_BODY", "Give at least one of name, user_metadata and preview_id.")
    changed = {
        "name": _text({"name": asset.name, **given}, "name"),
        "preview": _text({"preview_id": asset.preview, **given}, "preview_id"),
        "metadata": {
            **_metadata({"user_metadata": asset.metadata, **given}),
            **({"filename": asset.file} if asset.file else {}),
        },
    }
    asset = await request.app[SERVICES].shelf.change(asset, **changed)
    return web.json_response(wire.held_asset(asset))


@answers
async def delete_asset(request: web.Request) -> web.Response:
    """DELETE /api/assets/{id}: it is listed no more; its bytes stay."""
    await request.app[SERVICES].shelf.change(await _asked(request), deleted=True)
    return web.Response(status=204)


@answers
async def add_tags(request: web.Request) -> web.Response:
    """POST /api/assets/{id}/tags"""
    asset, named = await _asked(request), _tags(await _object(request), least=1)
    total = tuple(dict.fromkeys((*asset.tags, *named)))
    await request.app[SERVICES].shelf.change(asset, tags=total)
    return web.json_response(wire.tags_added(named, asset.tags, total))


@answers
async def remove_tags(request: web.Request) -> web.Response:
    """DELETE /api/assets/{id}/tags"""
    asset, named = await _asked(request), _tags(await _object(request), least=1)
    total = tuple(tag for tag in asset.tags if tag not in named)
    await request.app[SERVICES].shelf.change(asset, tags=total)
    return web.json_response(wire.tags_removed(named, asset.tags, total))


# -- what requests say -----------------------------------------------------------------------------


async def _asked(request: web.Request) -> Asset:
    """The asset that the path names. Raises: Refusal."""
    id = request.match_info["id"].lower()
    asset = await request.app[SERVICES].shelf.get(id, user_of(request))
    if asset is None:
        raise Refusal(404, "ASSET_NOT_FOUND", f"There is no asset {id!r}.")
    return asset


async def _added(
    request: web.Request, fields: Mapping[str, object], filename: str, content: bytes | None
) -> tuple[Asset, bool]:
    """Take in what an upload's fields describe. Raises: Refusal."""
    services, hash = request.app[SERVICES], str(fields.get("hash") or "").strip().lower()
    if hash and not _HASH.fullmatch(hash):
        raise Refusal(400, "INVALID_BODY", "The hash must be blake3: and 64 hexadecimal digits.")
    name = _text(fields, "name") or filename or hash.partition(":")[2]
    asset = Asset(
        id=str(uuid.uuid4()),
        name=name,
        tags=_tags(fields),
        hash=hash or None,
        mime=_mime(fields) or content_type(filename or name),
        metadata=_metadata(fields),
        preview=_text(fields, "preview_id"),
        owner=user_of(request) if services.users.multiple else "",
    )
    known = await services.shelf.holder(hash) if hash else None
    if known is not None:
        return await services.shelf.add(replace(asset, root=known.root, size=known.size))
    if content is None and hash and request.content_type == "application/json":
        raise Refusal(404, "ASSET_NOT_FOUND", f"The bytes of {hash} are not here.")
    if content is None:
        raise Refusal(400, "MISSING_FILE", "The form has neither a file nor the hash of bytes that are here.")
    if not content:
        raise Refusal(400, "EMPTY_UPLOAD", "The file is empty.")
    made = await asyncio.to_thread(content_hash, content)
    if hash not in ("", made):
        raise Refusal(400, "HASH_MISMATCH", f"The file's bytes are {made}, not {hash}.")
    known = await services.shelf.holder(made)
    root = known.root if known is not None else _destination(asset.tags, services.storage.kinds())
    asset = replace(asset, root=root, hash=made, size=len(content))
    return await services.shelf.add(asset, content, _ending(filename))


def _destination(tags: Sequence[str], kinds: Iterable[str]) -> str:
    try:
        return destination(tags, kinds)
    except ValueError as error:
        raise Refusal(400, "INVALID_BODY", str(error)) from error


def _ending(filename: str) -> str:
    """The ending of a file's name, where it is a plain one."""
    suffix = PurePath(filename).suffix.lower()
    return suffix if re.fullmatch(r"\.[a-z0-9]{1,16}", suffix) else ""


async def _fitting(request: web.Request) -> list[Asset]:
    """The assets that the query's tags, name and metadata choose. Raises: Refusal."""
    query = request.query
    try:
        metadata = json.loads(query.get("metadata_filter") or "{}")
    except ValueError as error:
        raise Refusal(400, "INVALID_QUERY", f"metadata_filter is not JSON: {error}.") from error
    if not isinstance(metadata, dict):
        raise Refusal(400, "INVALID_QUERY", "metadata_filter must be a JSON object.")
    include, exclude = (
        frozenset(_split(query.getall(name, []))) for name in ("include_tags", "exclude_tags")
    )
    wanted = Filter(include, exclude, query.get("name_contains", ""), metadata)
    listed = await request.app[SERVICES].shelf.listed(user_of(request))
    return [asset for asset in listed if wanted.takes(asset)]


def _number(text: str | None, name: str, default: int, least: int, most: int = 10_000_000) -> int:
    number = default if text is None else int(text) if re.fullmatch(r"\d{1,9}", text) else least - 1
    if not least <= number <= most:
        raise Refusal(400, "INVALID_QUERY", f"{name} must be a whole number from {least} to {most}.")
    return number


async def _object(request: web.Request) -> dict[str, object]:
    try:
        body = json.loads(await request.read())
    except (ValueError, RecursionError) as error:
        raise Refusal(400, "INVALID_JSON", f"The body is not valid JSON: {error}.") from error
    if not isinstance(body, dict):
        raise Refusal(400, "INVALID_BODY", "The body must be a JSON object.")
    return body


def _read_fields(form: Mapping[str, Sequence[str]]) -> dict[str, object]:
    """A form's fields as a JSON body would have them. Tags: JSON lists, or words between commas."""
    fields: dict[str, object] = {name: values[-1] for name, values in form.items()}
    fields["tags"] = [tag for text in form.get("tags", ()) for tag in _words(text)]
    try:
        fields["user_metadata"] = json.loads(str(fields.get("user_metadata") or "{}"))
    except (ValueError, RecursionError) as error:
        raise Refusal(400, "INVALID_BODY", f"user_metadata is not JSON: {error}.") from error
    if "id" in fields:
        raise Refusal(400, "UNSUPPORTED_FIELD", "The server gives ids: leave the field id out.")
    return fields


def _words(text: str) -> list[object]:
    if text.strip().startswith("["):
        try:
            return list(json.loads(text))
        except (ValueError, RecursionError) as error:
            raise Refusal(400, "INVALID_BODY", f"tags is not a JSON list: {error}.") from error
    return list(_split([text]))


def _split(texts: Iterable[str]) -> list[str]:
    return [word.strip() for text in texts for word in text.split(",") if word.strip()]


def _text(fields: Mapping[str, object], name: str) -> str | None:
    value = fields.get(name)
    if value is not None and not (isinstance(value, str) and len(value) <= _LONGEST):
        raise Refusal(400, "INVALID_BODY", f"{name} must be a text of at most {_LONGEST} characters.")
    return value.strip() or None if isinstance(value, str) else None


def _mime(fields: Mapping[str, object]) -> str | None:
    kind = _text(fields, "mime_type")
    if kind is not None and not re.fullmatch(r"[\w.+-]+/[\w.+-]+", kind, re.ASCII):
        raise Refusal(400, "INVALID_BODY", f"mime_type={kind!r} is no MIME type.")
    return kind


def _tags(fields: Mapping[str, object], least: int = 0) -> tuple[str, ...]:
    """Each tag once. Raises: Refusal."""
    tags = fields.get("tags", [])
    tags = _split([tags]) if isinstance(tags, str) else tags
    if not isinstance(tags, list) or not all(isinstance(t, str) for t in tags) or len(tags) < least:
        raise Refusal(400, "INVALID_BODY", f"tags must be a list of at least {least} texts.")
    return tuple(dict.fromkeys(tag.strip() for tag in tags if tag.strip()))


def _metadata(fields: Mapping[str, object]) -> dict[str, object]:
    value = fields.get("user_metadata") or {}
    if not isinstance(value, dict):
        raise Refusal(400, "INVALID_BODY", "user_metadata must be a JSON object.")
    return value


PREFIXED = (
    web.get("/api/assets", list_assets),
    web.post("/api/assets", add_asset),
    web.post("/api/assets/from-hash", add_from_hash),
    web.head("/api/assets/hash/{hash}", has_hash),
    web.get("/api/assets/tags/refine", refine_tags),
    web.get("/api/assets/{id}", get_asset, allow_head=False),
    web.put("/api/assets/{id}", change_asset),
    web.delete("/api/assets/{id}", delete_asset),
    web.get("/api/assets/{id}/content", asset_content),
    web.post("/api/assets/{id}/tags", add_tags),
    web.delete("/api/assets/{id}/tags", remove_tags),
    web.get("/api/tags", list_tags),
)
