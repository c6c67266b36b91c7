"""The description of our routes is true: every route is in it, and every route answers as it says."""

import json

import jsonschema_rs
import pytest
from aiohttp import FormData

from tests.web.conftest import House, a_failing_prompt, a_prompt
from web.app import ONCE, TWINNED
from web.openapi import TOLD, description

DOCUMENT = description((*TWINNED, *ONCE), "0")
OPERATIONS = [(path, method) for path, found in DOCUMENT["paths"].items() for method in found]
# values for the parts of paths and the queries: some that are there, some that are not
PARTS = ("checkpoints", "KSampler", "input", "a.json", "default", "0", "absent", "Show")
VALUES = ("1", "0", "-1", "x", "", "true", "false", "workflows", "input", "created_at", "desc", "completed")


def test_every_route_is_described_and_nothing_else():
    described = {(method.upper(), path) for path, method in OPERATIONS}
    assert described == set(TOLD)
    for path, method in OPERATIONS:
        assert len(DOCUMENT["paths"][path][method]["summary"]) > 5, path


def test_the_document_is_valid_as_json_schema():
    for path, method in OPERATIONS:
        for answer in DOCUMENT["paths"][path][method]["responses"].values():
            for content in answer.get("content", {}).values():
                assert jsonschema_rs.meta.is_valid(content["schema"])


async def test_the_document_is_served(house: House):
    told = await house.json("/tessera/openapi.json")
    assert told["openapi"].startswith("3.1")
    assert told["paths"].keys() == DOCUMENT["paths"].keys()


def bodies(schema: dict | None) -> list[object]:
    """Some that fit, and some that do not."""
    fitting = {
        "prompt": a_prompt(),
        "username": "me",
        "job_ids": ["x"],
        "clientId": "x",
        "enabled": True,
        "hash": "blake3:" + "0" * 64,
        "tags": ["x"],
    }
    known = {k: fitting[k] for k in (schema or {}).get("required", ()) if k in fitting}
    wrong = ({}, [], None, 1, "x", {"delete": "x"}, {"clear": 1}, {"prompt": {}})
    return [known, *wrong, {"prompt": a_failing_prompt()}]


def holds(operation: dict, status: int, kind: str, text: str) -> None:
    """An answer is one of those that are described."""
    assert str(status) in operation["responses"], (status, text[:200])
    content = operation["responses"][str(status)].get("content")
    if content is not None and text:
        assert kind == "application/json", (status, kind)
        jsonschema_rs.validate(content["application/json"]["schema"], json.loads(text))


@pytest.mark.parametrize(("path", "method"), OPERATIONS, ids=lambda part: part)
async def test_every_route_answers_as_it_is_described(house: House, path: str, method: str):
    operation = DOCUMENT["paths"][path][method]
    queries = [p["name"] for p in operation["parameters"] if p["in"] == "query"]
    body = operation.get("requestBody", {}).get("content", {})
    asked = [(part, dict.fromkeys(queries, value)) for part in PARTS for value in ("1", "x", "workflows", "")]
    schema = body.get("application/json", {}).get("schema")
    for n, (part, query) in enumerate(asked):
        target = path
        for name in (p["name"] for p in operation["parameters"] if p["in"] == "path"):
            target = target.replace("{" + name + "}", part)
        sent: dict[str, object] = {}
        if "multipart/form-data" in body:
            form = FormData({"type": VALUES[n % len(VALUES)]})
            if n % 2:
                form.add_field("image", b"x", filename=part)
            sent = {"data": form}
        elif schema is not None:
            sent = {"data": json.dumps(bodies(schema)[n % 10])}
        async with house.client.request(method.upper(), target, params=query, **sent) as reply:
            text = (await reply.read()).decode(errors="replace")
            holds(operation, reply.status, reply.content_type, text)
