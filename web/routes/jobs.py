"""Jobs, unfinished and finished, in one list: where the front end's queue and history come from."""

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from aiohttp import web

from backend.engine.record import JobRecord, JobStatus, SortBy, SortOrder
from backend.types import JobId
from backend.values import frozen
from web import wire
from web.body import read_object, strings
from web.services import SERVICES, Engine

Word = TypeVar("Word", bound=str)
PAGE = 100  # jobs on a page, where the client names no limit: its pages need a number
ASSETS = 500  # files on a page, where it names none
SORT_KEYS: tuple[SortBy, ...] = ("created_at", "execution_duration")
SORT_ORDERS: tuple[SortOrder, ...] = ("desc", "asc")


@frozen
class Listing:
    """Which jobs a client wants to see. statuses None: all."""

    statuses: tuple[JobStatus, ...] | None
    workflow_id: str | None
    sort_by: SortBy
    sort_order: SortOrder
    limit: int
    offset: int


def read_listing(query: Callable[[str], str | None]) -> Listing:
    """The query of GET /api/jobs. Raises: ValueError with what is wrong."""
    return Listing(
        statuses=_statuses(query("status")),
        workflow_id=query("workflow_id") or None,
        sort_by=_one_of(SORT_KEYS, query("sort_by"), "sort_by"),
        sort_order=_one_of(SORT_ORDERS, query("sort_order"), "sort_order"),
        limit=_whole(query("limit"), "limit", PAGE, least=1),
        offset=max(0, _whole(query("offset"), "offset", 0)),
    )


def _statuses(text: str | None) -> tuple[JobStatus, ...] | None:
    words = [word.strip().lower() for word in (text or "").split(",") if word.strip()]
    for word in words:
        if word not in wire.STATUSES:
            raise ValueError(f"status {word!r} is unknown: use some of {', '.join(wire.STATUSES)}.")
    return tuple(wire.STATUSES[word] for word in words) or None


def _one_of(words: tuple[Word, ...], text: str | None, name: str) -> Word:
    if text is None:
        return words[0]
    for word in words:
        if word == text.lower():
            return word
    raise ValueError(f"{name}={text!r} is unknown: use one of {', '.join(words)}.")


def _whole(text: str | None, name: str, default: int, least: int | None = None) -> int:
    if text is None:
        return default
    try:
        number = int(text)
    except ValueError as error:
        raise ValueError(f"{name}={text!r} is not a whole number.") from error
    if least is not None and number < least:
        raise ValueError(f"{name}={number} must be at least {least}.")
    return number


async def list_jobs(request: web.Request) -> web.Response:
    """GET /jobs: one page."""
    try:
        asked = read_listing(request.query.get)
    except ValueError as error:
        return web.json_response(wire.error(str(error)), status=400)
    jobs, total = await request.app[SERVICES].engine.store.jobs_page(
        asked.statuses, asked.workflow_id, asked.sort_by, asked.sort_order, asked.limit, asked.offset
    )
    forecasts = request.app[SERVICES].engine.forecasts()
    page = wire.jobs_page(jobs, total, asked.limit, asked.offset, forecasts)
    return web.json_response(page, dumps=wire.dumps)


async def get_job(request: web.Request) -> web.Response:
    """GET /jobs/{id}: one job with its outputs and its workflow."""
    record = await request.app[SERVICES].engine.store.job(request.match_info["id"])
    if record is None:
        return web.json_response(wire.error("Job not found"), status=404)
    forecast = request.app[SERVICES].engine.forecasts().get(record.id)
    return web.json_response(wire.job_detail(record, forecast), dumps=wire.dumps)


async def job_assets(request: web.Request) -> web.Response:
    """GET /jobs/{id}/assets: the files that a job saved, page by page."""
    try:
        limit = _whole(request.query.get("limit"), "limit", ASSETS, least=1)
        offset = max(0, _whole(request.query.get("offset"), "offset", 0))
    except ValueError as error:
        return web.json_response(wire.error(str(error)), status=400)
    record = await request.app[SERVICES].engine.store.job(request.match_info["id"])
    if record is None:
        return web.json_response(wire.error("Job not found"), status=404)
    return web.json_response(wire.assets_page(record.id, list(_assets(record)), limit, offset))


def _assets(record: JobRecord) -> Iterator[wire.Json]:
    for node, ui in record.outputs.items():
        for key, items in ui.items() if isinstance(ui, Mapping) else ():
            for index, item in enumerate(items if isinstance(items, (list, tuple)) else ()):
                if isinstance(item, Mapping) and isinstance(item.get("filename"), str):
                    yield wire.asset(record.id, node, key, index, item)


async def cancel_job(request: web.Request) -> web.Response:
    """POST /jobs/{id}/cancel: a finished or unknown job is left as it is."""
    await _cancel(request.app[SERVICES].engine, [JobId(request.match_info["id"])])
    return web.Response()


async def cancel_jobs(request: web.Request) -> web.Response:
    """POST /jobs/cancel"""
    ids = strings((await read_object(request)).get("job_ids"), "job_ids")
    await _cancel(request.app[SERVICES].engine, [JobId(i) for i in ids])
    return web.Response()


async def _cancel(engine: Engine, ids: list[JobId]) -> None:
    await engine.cancel_pending(ids)
    for id in ids:
        await engine.interrupt(id)


ROUTES = (
    web.get("/jobs", list_jobs),
    web.post("/jobs/cancel", cancel_jobs),
    web.get("/jobs/{id}", get_job),
    web.get("/jobs/{id}/assets", job_assets),
    web.post("/jobs/{id}/cancel", cancel_job),
)
