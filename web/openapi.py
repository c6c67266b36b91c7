"""A description of our routes for programs (OpenAPI 3.1), made from the list of routes itself.

Summaries are the first lines of the handlers' docstrings; a table adds what a docstring does not say: the
query, the body, and the answers. A test asks every route and holds its answers against it.
"""

import re
from collections.abc import Iterable, Mapping

from aiohttp import web

from backend.engine.assets import ASSET_SORTS
from backend.values import frozen

Schema = dict[str, object]
STRING: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
WHOLE: Schema = {"type": "integer"}
SWITCH: Schema = {"type": "boolean"}
OBJECT: Schema = {"type": "object"}
ANY: Schema = {}
NAMES: Schema = {"type": "array", "items": STRING}
OBJECTS: Schema = {"type": "array", "items": OBJECT}
WORD: Schema = {"type": "string", "enum": ["true", "false"]}


def record(required: Mapping[str, Schema], **optional: Schema) -> Schema:
    """An object with these members, and perhaps others."""
    return {"type": "object", "properties": {**required, **optional}, "required": list(required)}


JOB = record(
    {"id": STRING, "status": STRING, "create_time": NUMBER, "priority": NUMBER, "outputs_count": WHOLE},
    execution_start_time=NUMBER,
    execution_end_time=NUMBER,
    preview_output=OBJECT,
    execution_error=OBJECT,
    workflow_id=STRING,
)
ASSET = record(
    {"id": STRING, "name": STRING, "tags": NAMES, "created_at": STRING, "updated_at": STRING},
    hash=STRING,
    size=WHOLE,
    mime_type=STRING,
    preview_url=STRING,
    user_metadata=OBJECT,
)
PAGE = record({"offset": WHOLE, "limit": WHOLE, "total": WHOLE, "has_more": SWITCH})
REFUSAL = record(
    {"error": record({"type": STRING, "message": STRING, "details": STRING}), "node_errors": OBJECT}
)
QUEUE_ITEM: Schema = {"type": "array", "minItems": 5, "maxItems": 5}
HISTORY: Schema = {
    "type": "object",
    "additionalProperties": record(
        {"prompt": QUEUE_ITEM, "outputs": OBJECT, "status": OBJECT, "meta": OBJECT}
    ),
}
UPLOADED = record({"name": STRING, "subfolder": STRING, "type": STRING})


@frozen
class Told:
    """query: parameters; body: of a JSON request; form: of an upload; answer: the JSON of a 200, None where
    it is empty, a file or text; others: statuses beside 200 -> JSON, None where it is empty or text.
    """

    query: Mapping[str, Schema] | None = None
    body: Schema | None = None
    form: Mapping[str, Schema] | None = None
    answer: Schema | None = None
    others: Mapping[int, Schema | None] | None = None


_JSON_BODY = {400: None, 413: None}
_FILE = {403: None, 404: None}
_CHANGE = record({}, clear=SWITCH, delete=NAMES)
_INFO: Schema = {
    "anyOf": [STRING, record({"path": STRING, "size": WHOLE, "modified": NUMBER, "created": NUMBER})]
}
_UPLOAD: Mapping[str, Schema] = {
    "image": {"type": "string", "format": "binary"},
    "type": {"type": "string", "enum": ["input", "output", "temp"]},
    "subfolder": STRING,
    "overwrite": WORD,
}
_SAVING = {"overwrite": WORD, "full_info": WORD}

_REFUSED = record({"error": record({"code": STRING, "message": STRING, "details": OBJECT})})
_CHOOSING = dict.fromkeys(("include_tags", "exclude_tags", "name_contains", "metadata_filter"), STRING)
_ASSET_FIELDS = dict.fromkeys(("hash", "tags", "name", "user_metadata", "mime_type", "preview_id"), STRING)

TOLD: Mapping[tuple[str, str], Told] = {
    ("POST", "/prompt"): Told(
        body=record(
            {"prompt": OBJECT},
            client_id=STRING,
            prompt_id=STRING,
            number=NUMBER,
            front=SWITCH,
            extra_data=OBJECT,
            partial_execution_targets=NAMES,
        ),
        answer=record({"prompt_id": STRING, "number": NUMBER, "node_errors": OBJECT}),
        others={400: REFUSAL, 413: None, 429: REFUSAL},
    ),
    ("GET", "/prompt"): Told(answer=record({"exec_info": record({"queue_remaining": WHOLE})})),
    ("GET", "/queue"): Told(
        answer=record(
            {name: {"type": "array", "items": QUEUE_ITEM} for name in ("queue_running", "queue_pending")}
        )
    ),
    ("POST", "/queue"): Told(body=_CHANGE, others=_JSON_BODY),
    ("GET", "/history"): Told(
        query={"max_items": WHOLE, "offset": WHOLE}, answer=HISTORY, others={400: None}
    ),
    ("GET", "/history/{prompt_id}"): Told(answer=HISTORY),
    ("POST", "/history"): Told(body=_CHANGE, others=_JSON_BODY),
    ("POST", "/interrupt"): Told(body=record({}, prompt_id=STRING), others=_JSON_BODY),
    ("POST", "/free"): Told(body=record({}, unload_models=SWITCH, free_memory=SWITCH), others=_JSON_BODY),
    ("GET", "/jobs"): Told(
        query={
            "status": STRING,
            "workflow_id": STRING,
            "sort_by": {"type": "string", "enum": ["created_at", "execution_duration"]},
            "sort_order": {"type": "string", "enum": ["asc", "desc"]},
            "limit": {"type": "integer", "minimum": 1},
            "offset": WHOLE,
        },
        answer=record({"jobs": {"type": "array", "items": JOB}, "pagination": PAGE}),
        others={400: record({"error": STRING})},
    ),
    ("GET", "/jobs/{id}"): Told(answer=JOB, others={404: record({"error": STRING})}),
    ("GET", "/jobs/{id}/assets"): Told(
        query={"limit": {"type": "integer", "minimum": 1}, "offset": WHOLE},
        answer=record({"assets": OBJECTS, "pagination": PAGE}),
        others={400: record({"error": STRING}), 404: record({"error": STRING})},
    ),
    ("POST", "/jobs/{id}/cancel"): Told(),
    ("POST", "/jobs/cancel"): Told(body=record({"job_ids": NAMES}), others=_JSON_BODY),
    ("GET", "/object_info"): Told(answer=OBJECT),
    ("GET", "/object_info/{name}"): Told(answer=OBJECT),
    ("GET", "/embeddings"): Told(answer=NAMES),
    ("GET", "/models"): Told(answer=NAMES),
    ("GET", "/models/{folder}"): Told(answer=NAMES, others={404: None}),
    ("GET", "/experiment/models"): Told(answer=OBJECTS),
    ("GET", "/experiment/models/{folder}"): Told(answer=OBJECTS, others={404: None}),
    ("GET", "/experiment/models/preview/{folder}/{index}/{file}"): Told(others={404: None}),
    ("GET", "/view_metadata/{folder}"): Told(query={"filename": STRING}, answer=OBJECT, others={404: None}),
    ("GET", "/extensions"): Told(answer=NAMES),
    ("GET", "/system_stats"): Told(answer=record({"system": OBJECT, "devices": OBJECTS})),
    ("GET", "/features"): Told(answer=OBJECT),
    ("GET", "/i18n"): Told(answer=OBJECT),
    ("GET", "/workflow_templates"): Told(answer=OBJECT),
    ("GET", "/api/workflow_templates/{pack}/{file}"): Told(others={404: None}),
    ("GET", "/global_subgraphs"): Told(answer=OBJECT),
    ("GET", "/global_subgraphs/{id}"): Told(answer={"type": ["object", "null"]}),
    ("GET", "/node_replacements"): Told(answer=OBJECT),
    ("GET", "/view"): Told(
        query=dict.fromkeys(("filename", "type", "subfolder", "preview", "channel"), STRING),
        others={206: None, 304: None, 400: None, **_FILE},
    ),
    ("POST", "/upload/image"): Told(form=_UPLOAD, answer=UPLOADED, others=_JSON_BODY),
    ("POST", "/upload/mask"): Told(
        form={**_UPLOAD, "original_ref": STRING}, answer=UPLOADED, others=_JSON_BODY
    ),
    ("GET", "/internal/files/{kind}"): Told(answer=NAMES, others={400: record({"error": STRING})}),
    ("GET", "/internal/folder_paths"): Told(answer={"type": "object", "additionalProperties": NAMES}),
    ("GET", "/internal/logs"): Told(answer=STRING),
    ("GET", "/internal/logs/raw"): Told(answer=record({"entries": OBJECTS, "size": OBJECT})),
    ("PATCH", "/internal/logs/subscribe"): Told(
        body=record({"clientId": STRING, "enabled": SWITCH}), others=_JSON_BODY
    ),
    ("GET", "/users"): Told(answer=record({"storage": STRING}, migrated=SWITCH, users=OBJECT)),
    ("POST", "/users"): Told(body=record({"username": STRING}), answer=STRING, others=_JSON_BODY),
    ("GET", "/settings"): Told(answer=OBJECT, others={401: None}),
    ("POST", "/settings"): Told(body=OBJECT, others={401: None, **_JSON_BODY}),
    ("GET", "/settings/{id}"): Told(answer=ANY, others={401: None}),
    ("POST", "/settings/{id}"): Told(body=ANY, others={401: None, **_JSON_BODY}),
    ("GET", "/userdata"): Told(
        query={"dir": STRING, "recurse": WORD, "full_info": WORD, "split": WORD},
        answer={"type": "array"},
        others={400: None, 401: None, **_FILE},
    ),
    ("GET", "/v2/userdata"): Told(query={"path": STRING}, answer=OBJECTS, others={400: None, **_FILE}),
    ("GET", "/userdata/{file}"): Told(others={400: None, 401: None, **_FILE}),
    ("POST", "/userdata/{file}"): Told(
        query=_SAVING, answer=_INFO, others={400: None, 401: None, 403: None, 409: None, 413: None}
    ),
    ("DELETE", "/userdata/{file}"): Told(others={204: None, 400: None, 401: None, **_FILE}),
    ("POST", "/userdata/{file}/move/{dest}"): Told(
        query=_SAVING, answer=_INFO, others={400: None, 401: None, 409: None, **_FILE}
    ),
    ("GET", "/api/assets"): Told(
        query={
            **_CHOOSING,
            "limit": {"type": "integer", "minimum": 1, "maximum": 500},
            "offset": WHOLE,
            "sort": {"type": "string", "enum": list(ASSET_SORTS)},
            "order": {"type": "string", "enum": ["asc", "desc"]},
        },
        answer=record({"assets": {"type": "array", "items": ASSET}, "total": WHOLE, "has_more": SWITCH}),
        others={400: _REFUSED},
    ),
    ("POST", "/api/assets"): Told(
        form={"file": {"type": "string", "format": "binary"}, **_ASSET_FIELDS},
        answer=ASSET,
        others={201: ASSET, 400: _REFUSED, 413: None, 415: _REFUSED},
    ),
    ("POST", "/api/assets/from-hash"): Told(
        body=record({"hash": STRING}, name=STRING, tags=NAMES, user_metadata=OBJECT, preview_id=STRING),
        others={201: ASSET, 400: _REFUSED, 404: _REFUSED, 413: None},
    ),
    ("HEAD", "/api/assets/hash/{hash}"): Told(others={400: None, 404: None}),
    ("GET", "/api/assets/tags/refine"): Told(
        query={**_CHOOSING, "limit": WHOLE},
        answer=record({"tag_counts": OBJECT}),
        others={400: _REFUSED},
    ),
    ("GET", "/api/assets/{id}"): Told(answer=ASSET, others={404: _REFUSED}),
    ("PUT", "/api/assets/{id}"): Told(
        body=record({}, name=STRING, user_metadata=OBJECT, preview_id=STRING),
        answer=ASSET,
        others={400: _REFUSED, 404: _REFUSED, 413: None},
    ),
    ("DELETE", "/api/assets/{id}"): Told(others={204: None, 404: _REFUSED}),
    ("GET", "/api/assets/{id}/content"): Told(
        query={"disposition": {"type": "string", "enum": ["attachment", "inline"]}},
        others={206: None, 304: None, 403: None, 404: _REFUSED},
    ),
    ("POST", "/api/assets/{id}/tags"): Told(
        body=record({"tags": NAMES}),
        answer=record({"added": NAMES, "already_present": NAMES, "total_tags": NAMES}),
        others={400: _REFUSED, 404: _REFUSED, 413: None},
    ),
    ("DELETE", "/api/assets/{id}/tags"): Told(
        body=record({"tags": NAMES}),
        answer=record({"removed": NAMES, "not_present": NAMES, "total_tags": NAMES}),
        others={400: _REFUSED, 404: _REFUSED, 413: None},
    ),
    ("GET", "/api/tags"): Told(
        query={
            "prefix": STRING,
            "limit": WHOLE,
            "offset": WHOLE,
            "order": {"type": "string", "enum": ["count_desc", "name_asc"]},
            "include_zero": WORD,
        },
        answer=record({"tags": OBJECTS, "total": WHOLE, "has_more": SWITCH}),
        others={400: _REFUSED},
    ),
    ("GET", "/tessera/pool"): Told(answer=OBJECT),
    ("GET", "/tessera/packs"): Told(answer=OBJECTS),
    ("GET", "/tessera/openapi.json"): Told(answer=OBJECT),
    ("GET", "/metrics"): Told(),
}


def description(routes: Iterable[web.RouteDef], version: str) -> Schema:
    """The document. Every path but /internal, /metrics and packs' templates is there under /api as well."""
    paths: dict[str, dict[str, object]] = {}
    for route in routes:
        path = re.sub(r"\{(\w+):[^}]*\}", r"{\1}", route.path)
        told = TOLD.get((route.method, path), Told())
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, path, told)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tessera",
            "version": version,
            "description": "ComfyUI's HTTP interface. Events come over the websocket at /ws?clientId=.",
        },
        "servers": [{"url": ".."}],  # as this document is at /tessera/openapi.json, wherever that is
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"token": []}],  # the token only where the server was started with one
        "paths": paths,
    }


def _operation(route: web.RouteDef, path: str, told: Told) -> Schema:
    summary = (getattr(route.handler, "__doc__", None) or "").strip().partition("\n")[0]
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": STRING}
        for name in re.findall(r"\{(\w+)\}", path)
    ]
    parameters += [{"name": n, "in": "query", "schema": s} for n, s in (told.query or {}).items()]
    content = {
        **({"application/json": {"schema": told.body}} if told.body is not None else {}),
        **({"multipart/form-data": {"schema": record({}, **told.form)}} if told.form is not None else {}),
    }
    answers = {200: told.answer, **(told.others or {})}
    return {
        "summary": summary,
        "parameters": parameters,
        **({"requestBody": {"content": content}} if content else {}),
        "responses": {str(status): _response(status, schema) for status, schema in answers.items()},
    }


def _response(status: int, schema: Schema | None) -> Schema:
    words = "As asked." if status < 300 else "What was wrong is told in the body, where it has one."
    content = {} if schema is None else {"content": {"application/json": {"schema": schema}}}
    return {"description": words, **content}
