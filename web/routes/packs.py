"""What node packs bring for the page: translations, example workflows, subgraphs."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

from aiohttp import web

from web import side_folders, wire
from web.assets import send
from web.services import SERVICES


def _packs(request: web.Request) -> Iterator[Path]:
    services = request.app[SERVICES]
    return side_folders.pack_folders(services.storage, services.settings)


async def translations(request: web.Request) -> web.Response:
    """GET /i18n"""
    return web.json_response(await asyncio.to_thread(side_folders.translations, _packs(request)))


async def templates(request: web.Request) -> web.Response:
    """GET /workflow_templates: the names of packs' example workflows."""
    return web.json_response(await asyncio.to_thread(side_folders.examples, _packs(request)))


async def template_file(request: web.Request) -> web.StreamResponse:
    """GET /api/workflow_templates/<pack>/<file>"""
    pack, name = request.match_info["pack"], request.match_info["file"]
    return send(await asyncio.to_thread(side_folders.example, _packs(request), pack, name))


async def subgraphs(request: web.Request) -> web.Response:
    """GET /global_subgraphs: with their workflows, or the page would ask for each of them."""
    found = await asyncio.to_thread(lambda: list(side_folders.subgraphs(_packs(request))))
    return web.json_response({one.id: wire.subgraph(one) for one in found})


async def subgraph(request: web.Request) -> web.Response:
    """GET /global_subgraphs/{id}: null where there is none."""
    found = await asyncio.to_thread(lambda: list(side_folders.subgraphs(_packs(request))))
    wanted = next((one for one in found if one.id == request.match_info["id"]), None)
    return web.json_response(None if wanted is None else wire.subgraph(wanted))


async def replacements(request: web.Request) -> web.Response:
    """GET /node_replacements: no class of ours stands for another."""
    return web.json_response({})


ROUTES = (
    web.get("/i18n", translations),
    web.get("/workflow_templates", templates),
    web.get("/global_subgraphs", subgraphs),
    web.get("/global_subgraphs/{id}", subgraph),
    web.get("/node_replacements", replacements),
)
PREFIXED = (web.get("/api/workflow_templates/{pack}/{file:.+}", template_file),)  # under /api only
