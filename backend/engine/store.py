"""Jobs on disk: SQLAlchemy Core on SQLite (WAL), or on PostgreSQL by URL.

A job's arrival is committed when `add` returns. How it goes on, which nobody awaits, waits a moment for
company: most are entered among the other jobs as what they have become by then, many in one go. A SQLite
commit is shorter than the way to another thread and back, so it is made at once, on the loop's thread; a
writer thread has what may take long (deletions, checkpoints, many jobs, another database) and all that comes
while it is busy. Reads wait for the writes that were handed in before them, so a caller always sees its own.
Use a Store from one thread (the event loop's).
"""

import asyncio
import json
import logging
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from sqlalchemy import Connection, Delete, Engine, create_engine, delete, event, insert, select

from backend.engine.record import JobRecord, JobStatus, JobSummary, Json, SortBy, SortOrder, without_secrets
from backend.engine.tables import (
    ASSETS,
    COSTS,
    COUNTERS,
    ENDED,
    FORGET_ENDED,
    FORGET_PENDING,
    HISTORY_CAP,
    HUGE,
    JOBS,
    OPEN,
    SCHEMA_VERSION,
    Query,
    chosen,
    count_query,
    page_query,
    prepare,
    to_record,
    to_result,
    to_row,
    to_summary,
)
from backend.engine.writer import REFUSALS, Add, Do, Enter, Entry, Finish, Start, Write, Writer, cause
from backend.errors import StoreFailed
from backend.jsontext import dump_text
from backend.schedule.profile import Cost

__all__ = ["HISTORY_CAP", "SCHEMA_VERSION", "JobRecord", "JobStatus", "JobSummary", "Store"]
log = logging.getLogger(__name__)

_MOMENT = 0.05  # seconds that starts and ends wait for company: a commit of one costs half of that of ten
_FEW = 64  # writes that the loop's thread commits itself
_AHEAD = 100  # counters are written in steps of so many; a crash skips the rest of a step


class Store:
    """Every job that was accepted. Open it with `Store.open`.

    Raises, everywhere: StoreFailed.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        finished, history = prepare(engine)
        with engine.connect() as connection:
            names = select(COUNTERS).where(COUNTERS.c.name != "schema")
            self._counters: dict[str, int] = {row.name: row.value for row in connection.execute(names)}
        self._limits = dict(self._counters)
        self._writer = Writer(engine, finished, history, self._limits)
        self._inline = engine.dialect.name == "sqlite"
        self._held: list[Write] = []
        self._timer: asyncio.TimerHandle | None = None

    @classmethod
    def open(cls, where: Path | str) -> "Store":
        """A file (SQLite, made where there is none) or a database URL. Jobs that ran are pending again."""
        url = f"sqlite:///{where}" if isinstance(where, Path) else where
        try:
            if isinstance(where, Path):
                where.parent.mkdir(parents=True, exist_ok=True)
            engine = create_engine(url)
        except (*REFUSALS, OSError, ImportError) as error:
            raise StoreFailed(
                f"The job store {where} can't be reached", cause(error), "Check the URL."
            ) from error
        if engine.dialect.name == "sqlite":
            event.listen(engine, "connect", _tune)
        try:
            return cls(engine)
        except REFUSALS as error:
            engine.dispose()
            remedy = (
                "Check the path or URL and its rights, or move a damaged file away: its jobs are lost then."
            )
            raise StoreFailed(f"The job store {where} does not open", cause(error), remedy) from error

    def close(self) -> None:
        """Write what is left and let go of the file."""
        self._limits.update(self._counters)
        self._held.append(Write(Do(self._writer.count)))
        self._hand_over()
        self._writer.stop()
        self._engine.dispose()

    def next_sequence(self) -> int:
        """Counts arrivals, from 1, over restarts."""
        return self._next("sequence")

    def next_number(self) -> int:
        """The server-wide counter behind a prompt's place in the queue, from 1, over restarts."""
        return self._next("number")

    # -- writing ---------------------------------------------------------------------------------

    async def add(self, record: JobRecord) -> None:
        """Keep a new job; on disk when this returns, and perhaps even where the caller is cancelled."""
        self._writer.require_open()
        add = Add(record.sequence, to_row(without_secrets(record)))
        if self._inline and self._writer.idle:
            self._writer.add(add)
        else:
            self._writer.put([Write(add, waiting := asyncio.get_running_loop().create_future())])
            await waiting
        self._soon()

    def mark_started(self, sequence: int, at: int) -> None:
        if (row := self._writer.arrived.get(sequence)) is not None:
            row.update(status="running", started=at)
        else:
            self._later(Start(sequence, at))

    def finish(self, record: JobRecord) -> None:
        """Keep how a job ended. Takes the place of an earlier history entry of the same id."""
        try:
            row = to_result(record)
        except StoreFailed as failure:  # a node's fault: the job has ended all the same
            log.error("%s. Its outputs are left out of the history.", failure)
            row = to_result(replace(record, outputs={}, meta={}))
        arrived = self._writer.arrived.pop(record.sequence, None)
        if arrived is not None:
            self._later(Enter({**arrived, **row}, over=True))
        else:
            self._later(Finish(record.sequence, record.id, row))

    async def remove_pending(self, sequences: Sequence[int]) -> None:
        """Forget jobs that did not start, durably."""
        await self._delete(FORGET_PENDING, sequences)

    async def delete_history(self, ids: Sequence[str]) -> None:
        """Forget finished jobs; unknown ids are ignored."""
        await self._delete(FORGET_ENDED, ids)

    async def clear_history(self) -> None:
        await self._write(Do(lambda connection: connection.execute(delete(JOBS).where(ENDED))))

    def keep_costs(self, costs: Sequence[Cost]) -> None:
        """Keep what was measured, in place of what was kept before."""
        rows = [
            {"measure": cost.measure, "name": cost.name, "rows": cost.rows, "value": cost.value}
            for cost in costs
        ]

        def replace_all(connection: Connection) -> None:
            connection.execute(delete(COSTS))
            if rows:
                connection.execute(insert(COSTS), rows)

        self._later(Do(replace_all))

    async def keep_asset(self, id: str, body: Json) -> None:
        """Keep an asset, in place of what was kept under its id; on disk when this returns."""
        row = {"id": id, "body": dump_text(body)}

        def put(connection: Connection) -> None:
            connection.execute(delete(ASSETS).where(ASSETS.c.id == id))
            connection.execute(insert(ASSETS), row)

        await self._write(Do(put))

    async def flush(self) -> None:
        """Return when all that was handed in so far is on disk."""
        if self._held or self._writer.arrived or not self._writer.idle:
            await self._write(Do())

    # -- reading ---------------------------------------------------------------------------------

    async def unfinished(self) -> list[JobRecord]:
        """Jobs to run, in the order of the queue."""
        query = select(JOBS).where(OPEN).order_by(JOBS.c.number, JOBS.c.sequence)
        return await self._records(query)

    async def costs(self) -> list[Cost]:
        """What `keep_costs` was given last."""
        await self.flush()
        with self._reading() as connection:
            return [Cost(*row) for row in connection.execute(select(COSTS))]

    async def assets(self) -> list[Json]:
        """All that `keep_asset` was given, the last of each id."""
        await self.flush()
        return await asyncio.to_thread(self._read_assets)

    async def history(self, max_items: int | None = None, offset: int | None = None) -> list[JobRecord]:
        """Finished jobs, oldest end first: the last `max_items`, or `max_items` from index `offset`."""
        query = select(JOBS).where(ENDED)
        if max_items is not None and max_items <= 0:
            return []
        if max_items is not None and (offset is None or offset < 0):
            last = await self._records(query.order_by(JOBS.c.finished.desc()).limit(min(max_items, HUGE)))
            return last[::-1]
        count = HUGE if max_items is None else min(max_items, HUGE)
        start = max(0, min(offset or 0, HUGE))
        return await self._records(query.order_by(JOBS.c.finished).limit(count).offset(start))

    async def history_one(self, id: str) -> JobRecord | None:
        """The finished job of that id."""
        return await self._one(select(JOBS).where(JOBS.c.id == id, ENDED))

    async def job(self, id: str) -> JobRecord | None:
        """The job of that id, whatever its state; the youngest where a client used it twice."""
        return await self._one(select(JOBS).where(JOBS.c.id == id))

    async def jobs_page(
        self,
        statuses: Collection[JobStatus] | None = None,
        workflow_id: str | None = None,
        sort_by: SortBy = "created_at",
        sort_order: SortOrder = "desc",
        limit: int | None = None,
        offset: int = 0,
    ) -> tuple[list[JobSummary], int]:
        """One page of jobs, and how many there are on all pages."""
        wanted = chosen(statuses, workflow_id)
        count = HUGE if limit is None else min(limit, HUGE)
        page = page_query(wanted, sort_by, sort_order, count, min(max(0, offset), HUGE))
        await self.flush()
        with self._reading() as connection:
            rows = [to_summary(row) for row in connection.execute(page)]
            return rows, connection.execute(count_query(wanted)).scalar_one()

    # -- inside ----------------------------------------------------------------------------------

    def _next(self, name: str) -> int:
        self._counters[name] += 1
        if self._counters[name] > self._limits[name]:
            self._limits[name] += _AHEAD
        return self._counters[name]

    async def _write(self, op: Do) -> None:
        """Behind all that was handed in before."""
        self._writer.require_open()
        self._hold_arrived()
        self._held.append(Write(op, waiting := asyncio.get_running_loop().create_future()))
        self._hand_over()
        await waiting

    def _later(self, op: Entry) -> None:
        """Nobody waits for this write: it goes in a moment, or before the next read."""
        self._held.append(Write(op))
        self._soon()

    def _soon(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_MOMENT, self._hand_over)

    def _hand_over(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._hold_arrived()
        writes, self._held = self._held, []
        if not writes:
            return
        few = len(writes) <= _FEW and not any(isinstance(write.op, Do) for write in writes)
        if self._inline and self._writer.idle and few:
            self._writer.now(writes)
        else:
            self._writer.put(writes)

    def _hold_arrived(self) -> None:
        """Enter jobs that arrived and are not over yet."""
        arrived = self._writer.arrived
        self._held += [Write(Enter(arrived.pop(key), over=False)) for key in list(arrived)]

    async def _delete(self, statement: Delete, keys: Sequence[object]) -> None:
        if keys:
            rows = [{"key": key} for key in keys]
            await self._write(Do(lambda connection: connection.execute(statement, rows)))

    async def _one(self, query: Query) -> JobRecord | None:
        await self.flush()
        with self._reading() as connection:
            row = connection.execute(query.order_by(JOBS.c.sequence.desc()).limit(1)).first()
            return None if row is None else to_record(row)

    async def _records(self, query: Query) -> list[JobRecord]:
        """Many rows, read by a thread: the event loop goes on meanwhile."""
        await self.flush()
        return await asyncio.to_thread(self._read, query)

    def _read_assets(self) -> list[Json]:
        with self._reading() as connection:
            return [json.loads(body) for (body,) in connection.execute(select(ASSETS.c.body))]

    def _read(self, query: Query) -> list[JobRecord]:
        with self._reading() as connection:
            return [to_record(row) for row in connection.execute(query)]

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        try:
            with self._engine.connect() as connection:
                yield connection
        except REFUSALS as error:
            raise StoreFailed(
                "The job store can't be read", cause(error), "See the disk and its rights."
            ) from error


def _tune(connection: sqlite3.Connection, _: object) -> None:
    """WAL lets readers go on during a commit. NORMAL: a commit outlives this process, if not a power cut."""
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=10000", "wal_autocheckpoint=0"):
        connection.execute(f"PRAGMA {pragma}")
