"""The job store's tables, statements and rows."""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeAlias

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Engine,
    Float,
    Index,
    Integer,
    MetaData,
    Row,
    Select,
    Table,
    Text,
    asc,
    bindparam,
    delete,
    desc,
    func,
    insert,
    select,
    update,
)

from backend.engine.record import JobRecord, JobStatus, JobSummary, Json, SortBy, SortOrder
from backend.errors import StoreFailed
from backend.jsontext import dump, dump_text
from backend.types import ClientId, JobId, NodeId

SCHEMA_VERSION = 1
HISTORY_CAP = 10_000
_BIG = BigInteger().with_variant(Integer, "sqlite")
HUGE = 2**62  # stands for numbers of clients that no database integer holds

_METADATA = MetaData()
# Small columns first: SQLite reads a row up to the last column asked for, and lists need none of the texts.
JOBS = Table(
    "jobs",
    _METADATA,
    Column("sequence", _BIG, primary_key=True, autoincrement=False),
    Column("id", Text, nullable=False),
    Column("number", Float(53), nullable=False),
    Column("status", Text, nullable=False),
    Column("created", _BIG, nullable=False),
    Column("started", _BIG),
    Column("ended", _BIG),
    Column("duration", _BIG, nullable=False),
    Column("finished", _BIG),  # counts up as jobs end: the order of the history; NULL until then
    Column("outputs_count", Integer, nullable=False),
    Column("workflow_id", Text),
    Column("client", Text),
    Column("preview_output", Text),
    Column("error", Text),
    Column("targets", Text, nullable=False),
    Column("extra", Text, nullable=False),
    Column("prompt", Text, nullable=False),
    Column("outputs", Text, nullable=False),
    Column("meta", Text, nullable=False),
    Column("messages", Text),
)
# A job stands here from its acceptance until it is entered among the others a moment later: a table without
# indexes takes a row for a fifth of what `jobs` does, and most jobs are over by then.
_ARRIVING = ("sequence", "id", "number", "created", "client", "workflow_id", "targets", "extra", "prompt")
ARRIVALS = Table(
    "arrivals",
    _METADATA,
    *(
        Column(name, JOBS.c[name].type, primary_key=name == "sequence", autoincrement=False)
        for name in _ARRIVING
    ),
)
COUNTERS = Table(
    "counters", _METADATA, Column("name", Text, primary_key=True), Column("value", _BIG, nullable=False)
)
IDENTITIES = Table(
    "identities",
    _METADATA,
    Column("path", Text, primary_key=True),
    Column("size", _BIG, nullable=False),
    Column("mtime_ns", _BIG, nullable=False),
    Column("inode", Text, nullable=False),  # some file systems use all 64 bits
    Column("version", Integer, nullable=False),
    Column("contents", Text, nullable=False),
)
COSTS = Table(  # what things took here (`schedule.profile.Cost`)
    "costs",
    _METADATA,
    Column("measure", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("rows", Integer, primary_key=True, autoincrement=False),
    Column("value", Float(53), nullable=False),
)
ASSETS = Table(  # uploaded, named or tagged (`engine.assets.Asset`)
    "assets", _METADATA, Column("id", Text, primary_key=True), Column("body", Text, nullable=False)
)
ENDED, OPEN = JOBS.c.finished.isnot(None), JOBS.c.finished.is_(None)
Index("jobs_id", JOBS.c.id)
Index("jobs_finished", JOBS.c.finished, sqlite_where=ENDED, postgresql_where=ENDED)
Index("jobs_open", JOBS.c.number, JOBS.c.sequence, sqlite_where=OPEN, postgresql_where=OPEN)
# A page is found inside one of these alone (`page_query`); the rows are looked up afterwards.
Index("jobs_created", JOBS.c.created, JOBS.c.sequence, JOBS.c.status)
Index("jobs_duration", JOBS.c.duration, JOBS.c.sequence, JOBS.c.status)
Index("jobs_workflow", JOBS.c.workflow_id, JOBS.c.created, JOBS.c.sequence, JOBS.c.status, JOBS.c.duration)

_SUMMARY = [
    JOBS.c[name]
    for name in (
        *("id", "sequence", "number", "status", "created", "started", "ended"),
        *("outputs_count", "workflow_id", "preview_output", "error"),
    )
]
RESULT = (
    *("status", "started", "ended", "duration", "finished", "outputs_count"),
    *("preview_output", "error", "outputs", "meta", "messages"),
)
_OF_KEY = JOBS.c.sequence == bindparam("key")
ARRIVE, ENTERED = insert(ARRIVALS), delete(ARRIVALS).where(ARRIVALS.c.sequence == bindparam("sequence"))
INSERT = insert(JOBS)
START = update(JOBS).where(_OF_KEY).values(status="running", started=bindparam("at"))
FINISH = update(JOBS).where(_OF_KEY).values({name: bindparam(name) for name in RESULT})
REPLACE = delete(JOBS).where(JOBS.c.id == bindparam("same"), JOBS.c.finished < bindparam("before"))
FORGET_PENDING = delete(JOBS).where(_OF_KEY, JOBS.c.status == "pending")
FORGET_ENDED = delete(JOBS).where(JOBS.c.id == bindparam("key"), ENDED)
COUNT = update(COUNTERS).where(COUNTERS.c.name == bindparam("key")).values(value=bindparam("now"))
HISTORY_SIZE = select(func.count()).select_from(JOBS).where(ENDED)

Values: TypeAlias = dict[str, object]
NEW: Mapping[str, object] = {  # the other columns of a job that has not begun
    **dict.fromkeys(("started", "ended", "finished", "preview_output", "error", "messages")),
    **{"status": "pending", "duration": 0, "outputs_count": 0, "outputs": "{}", "meta": "{}"},
}
Query: TypeAlias = Select[*tuple[Any, ...]]  # SQLAlchemy knows a query's columns at run time only
Found: TypeAlias = Row[*tuple[Any, ...]]


def prepare(engine: Engine) -> tuple[int, int]:
    """Make or check the tables, and put jobs that arrived last, or ran, into the queue.

    Returns: the largest `finished`, and the size of the history.
    """
    with engine.begin() as connection:
        _METADATA.create_all(connection)
        found = connection.execute(select(COUNTERS.c.value).where(COUNTERS.c.name == "schema")).scalar()
        if found is None:
            first = {"schema": SCHEMA_VERSION, "sequence": 0, "number": 0}
            connection.execute(insert(COUNTERS), [{"name": n, "value": v} for n, v in first.items()])
        elif found != SCHEMA_VERSION:
            raise ValueError(f"its layout is version {found}, this Tessera reads version {SCHEMA_VERSION}")
        if left := [{**NEW, **row} for row in connection.execute(select(ARRIVALS)).mappings()]:
            connection.execute(insert(JOBS), left)
            connection.execute(delete(ARRIVALS))
        again = update(JOBS).where(OPEN, JOBS.c.status == "running")
        connection.execute(again.values(status="pending", started=None))
        last = connection.execute(select(func.coalesce(func.max(JOBS.c.finished), 0))).scalar_one()
        return last, connection.execute(HISTORY_SIZE).scalar_one()


def chosen(statuses: Collection[JobStatus] | None, workflow_id: str | None) -> list[ColumnElement[bool]]:
    """What the rows of a list have in common; None: any."""
    wanted: list[ColumnElement[bool]] = []
    if statuses is not None:
        wanted.append(JOBS.c.status.in_(sorted(statuses)))
    if workflow_id is not None:
        wanted.append(JOBS.c.workflow_id == workflow_id)
    return wanted


def page_query(
    wanted: Sequence[ColumnElement[bool]], sort_by: SortBy, sort_order: SortOrder, limit: int, offset: int
) -> Query:
    """One page of summaries. Counts its way through an index, and reads the rows of the page only."""
    way = asc if sort_order == "asc" else desc
    order = (way(JOBS.c.created if sort_by == "created_at" else JOBS.c.duration), way(JOBS.c.sequence))
    found = select(JOBS.c.sequence).where(*wanted).order_by(*order).limit(limit).offset(offset)
    return select(*_SUMMARY).where(JOBS.c.sequence.in_(found)).order_by(*order)


def count_query(wanted: Sequence[ColumnElement[bool]]) -> Select[int]:
    return select(func.count(JOBS.c.sequence)).where(*wanted)


def to_row(record: JobRecord) -> Values:
    """What a job arrives with; `NEW` has the rest.

    Raises: StoreFailed if an id or a value can't be written.
    """
    try:
        for text in (record.id, record.client, record.workflow_id):
            if text is not None and (b"\0" in text.encode()):
                raise ValueError(f"{text!r} is no usable id")
        return {
            "sequence": record.sequence,
            "id": record.id,
            "number": record.number,
            "created": record.created,
            "workflow_id": record.workflow_id,
            "client": record.client,
            "targets": dump_text(record.targets),
            "extra": dump_text(record.extra),
            "prompt": dump_text(record.prompt),
        }
    except (ValueError, TypeError, RecursionError) as error:
        remedy = "Use ids of ordinary text and values that JSON knows."
        raise StoreFailed("The job can't be written down", error, remedy) from error


def _dump_all(value: object) -> str:
    return dump(value, default=repr).decode()


def to_result(record: JobRecord) -> Values:
    """The columns that a job's end changes. Values of third parties that are no JSON are kept as text."""
    try:
        begun, ended = record.started, record.ended
        preview, error, messages = record.preview_output, record.error, record.messages
        return {
            "status": record.status,
            "started": begun,
            "ended": ended,
            "duration": ended - begun if ended is not None and begun is not None else 0,
            "outputs_count": record.outputs_count,
            "preview_output": None if preview is None else _dump_all(preview),
            "error": None if error is None else _dump_all(error),
            "outputs": _dump_all(record.outputs),
            "meta": _dump_all(record.meta),
            "messages": None if messages is None else _dump_all(messages),
        }
    except (ValueError, TypeError, RecursionError) as error:
        remedy = "A node showed something that is no JSON (keys must be strings); look at its `ui`."
        raise StoreFailed(f"The result of job {record.id} can't be written down", error, remedy) from error


def to_record(row: Found) -> JobRecord:
    messages = None if row.messages is None else json.loads(row.messages)
    return JobRecord(
        id=JobId(row.id),
        number=row.number,
        sequence=row.sequence,
        prompt=json.loads(row.prompt),
        targets=tuple(NodeId(id) for id in json.loads(row.targets)),
        created=row.created,
        client=None if row.client is None else ClientId(row.client),
        extra=json.loads(row.extra),
        status=row.status,
        started=row.started,
        ended=row.ended,
        outputs=json.loads(row.outputs),
        meta=json.loads(row.meta),
        messages=None if messages is None else tuple((name, data) for name, data in messages),
        error=_load(row.error),
    )


def to_summary(row: Found) -> JobSummary:
    return JobSummary(
        id=JobId(row.id),
        sequence=row.sequence,
        number=row.number,
        status=row.status,
        created=row.created,
        started=row.started,
        ended=row.ended,
        outputs_count=row.outputs_count,
        workflow_id=row.workflow_id,
        preview_output=_load(row.preview_output),
        error=_load(row.error),
    )


def _load(text: str | None) -> Json | None:
    return None if text is None else json.loads(text)
