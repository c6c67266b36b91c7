"""Jobs on disk: SQLAlchemy Core on SQLite (WAL), or on PostgreSQL by URL.

One writer thread commits in groups: all that was handed in while the last commit ran shares the next one.
`add` returns when the row is committed; starts and ends of jobs, which nobody awaits, wait a moment for
company. Reads wait for the writes that were handed in before them, so a caller always sees its own. Use a
Store from one thread (the event loop's).
"""

import asyncio
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from sqlalchemy import Connection, Delete, Engine, create_engine, delete, event, select
from sqlalchemy.exc import SQLAlchemyError

from backend.engine.record import JobRecord, JobStatus, JobSummary, SortBy, SortOrder, without_secrets
from backend.engine.tables import (
    COUNT,
    COUNTERS,
    ENDED,
    FINISH,
    FORGET_ENDED,
    FORGET_PENDING,
    HISTORY_CAP,
    HISTORY_SIZE,
    HUGE,
    INSERT,
    JOBS,
    OPEN,
    REPLACE,
    SCHEMA_VERSION,
    START,
    Query,
    Values,
    chosen,
    count_query,
    page_query,
    prepare,
    to_record,
    to_result,
    to_row,
    to_summary,
)
from backend.errors import StoreFailed
from backend.types import JobId

__all__ = ["HISTORY_CAP", "SCHEMA_VERSION", "JobRecord", "JobStatus", "JobSummary", "Store"]
log = logging.getLogger(__name__)

_MOMENT = 0.02  # seconds that starts and ends wait for company: waking the writer costs more than they do
_GROUP = 500  # most writes in one transaction: an add never waits behind more than these
# What a statement raises: the database's errors, and the driver's for values it can't bind.
_REFUSALS = (SQLAlchemyError, ValueError, OverflowError)


@dataclass(frozen=True, slots=True)
class _Add:
    row: Values


@dataclass(frozen=True, slots=True)
class _Start:
    key: int
    at: int


@dataclass(frozen=True, slots=True)
class _Finish:
    key: int
    id: JobId
    row: Values


@dataclass(frozen=True, slots=True)
class _Do:
    """Anything rarer than the above; nothing at all, to wait for what came before."""

    run: Callable[[Connection], object] = lambda connection: None


_Op: TypeAlias = _Add | _Start | _Finish | _Do


@dataclass(frozen=True, slots=True)
class _Write:
    op: _Op
    waiting: asyncio.Future[None] | None = None


class _Writer:
    """The thread that commits. counters: what `next_number` and `next_sequence` have come to."""

    def __init__(self, engine: Engine, finished: int, history: int, counters: dict[str, int]) -> None:
        self._engine, self._finished, self._history, self._counters = engine, finished, history, counters
        self._queue: queue.SimpleQueue[Sequence[_Write] | None] = queue.SimpleQueue()
        self._handed = self._done = 0
        self._thread = threading.Thread(target=self._work, name="store", daemon=True)
        self._thread.start()

    @property
    def idle(self) -> bool:
        """Whether all that was handed in is on disk (or was refused)."""
        return self._done == self._handed

    def put(self, writes: Sequence[_Write]) -> None:
        if not self._thread.is_alive():
            raise StoreFailed("The job store is closed", "a job came late", "Start the server again.")
        self._handed += len(writes)
        self._queue.put(writes)

    def stop(self) -> None:
        """Commit what is left and end."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while True:
            group = [self._queue.get()]
            while len(group) < _GROUP and not self._queue.empty():
                group.append(self._queue.get())
            writes = [write for writes in group if writes is not None for write in writes]
            outcomes = self._commit(writes)
            self._done += len(writes)
            _answer(writes, outcomes)
            if None in group:
                return

    def _commit(self, writes: Sequence[_Write]) -> list[Exception | None]:
        """One transaction; where it is refused, one per write, so that a bad write fails alone."""
        try:
            with self._engine.begin() as connection:
                self._apply(connection, [write.op for write in writes])
        except _REFUSALS as error:
            if len(writes) > 1:
                return [outcome for write in writes for outcome in self._commit([write])]
            if writes[0].waiting is None:
                log.error("The job store could not note how a job went on: %s", _cause(error))
            return [error]
        return [None] * len(writes)

    def _apply(self, connection: Connection, ops: Sequence[_Op]) -> None:
        """Writes of different jobs commute: adds, starts and ends go together, up to the next `_Do`."""
        adds: list[_Add] = []
        starts: list[_Start] = []
        ends: list[_Finish] = []
        for op in (*ops, _Do()):
            match op:
                case _Add():
                    adds.append(op)
                case _Start():
                    starts.append(op)
                case _Finish():
                    ends.append(op)
                case _Do():
                    self._flush(connection, adds, starts, ends)
                    adds, starts, ends = [], [], []
                    op.run(connection)

    def _flush(
        self, connection: Connection, adds: Sequence[_Add], starts: Sequence[_Start], ends: Sequence[_Finish]
    ) -> None:
        if adds:
            connection.execute(INSERT, [add.row for add in adds])
            connection.execute(COUNT, [{"key": key, "now": now} for key, now in self._counters.items()])
        over = {end.key for end in ends}
        begun = [{"key": start.key, "at": start.at} for start in starts if start.key not in over]
        if begun:
            connection.execute(START, begun)
        if ends:
            first = self._finished + 1
            self._finished += len(ends)
            rows = [{"key": end.key, **end.row, "finished": n} for n, end in enumerate(ends, first)]
            connection.execute(FINISH, rows)
            connection.execute(REPLACE, [{"same": e.id, "before": n} for n, e in enumerate(ends, first)])
            self._prune(connection, len(ends))

    def _prune(self, connection: Connection, added: int) -> None:
        """Drop the oldest entries beyond the cap. `_history` is never below the true size."""
        self._history += added
        if self._history <= HISTORY_CAP:
            return
        self._history = connection.execute(HISTORY_SIZE).scalar_one()
        if (surplus := self._history - HISTORY_CAP) > 0:
            oldest = select(JOBS.c.sequence).where(ENDED).order_by(JOBS.c.finished).limit(surplus)
            connection.execute(delete(JOBS).where(JOBS.c.sequence.in_(oldest)))
            self._history = HISTORY_CAP


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
        self._writer = _Writer(engine, finished, history, self._counters)
        self._held: list[_Write] = []
        self._timer: asyncio.TimerHandle | None = None

    @classmethod
    def open(cls, where: Path | str) -> "Store":
        """A file (SQLite, made where there is none) or a database URL. Jobs that ran are pending again."""
        url = f"sqlite:///{where}" if isinstance(where, Path) else where
        try:
            if isinstance(where, Path):
                where.parent.mkdir(parents=True, exist_ok=True)
            engine = create_engine(url)
        except (*_REFUSALS, OSError, ImportError) as error:
            raise StoreFailed(
                f"The job store {where} can't be reached", _cause(error), "Check the URL."
            ) from error
        if engine.dialect.name == "sqlite":
            event.listen(engine, "connect", _tune)
        try:
            return cls(engine)
        except _REFUSALS as error:
            engine.dispose()
            remedy = (
                "Check the path or URL and its rights, or move a damaged file away: its jobs are lost then."
            )
            raise StoreFailed(f"The job store {where} does not open", _cause(error), remedy) from error

    def close(self) -> None:
        """Write what is left and let go of the file."""
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
        await self._write(_Add(to_row(without_secrets(record))))

    def mark_started(self, sequence: int, at: int) -> None:
        self._later(_Start(sequence, at))

    def finish(self, record: JobRecord) -> None:
        """Keep how a job ended. Takes the place of an earlier history entry of the same id."""
        try:
            row = to_result(record)
        except StoreFailed as failure:  # a node's fault: the job has ended all the same
            log.error("%s. Its outputs are left out of the history.", failure)
            row = to_result(replace(record, outputs={}, meta={}))
        self._later(_Finish(record.sequence, record.id, row))

    async def remove_pending(self, sequences: Sequence[int]) -> None:
        """Forget jobs that did not start, durably."""
        await self._delete(FORGET_PENDING, sequences)

    async def delete_history(self, ids: Sequence[str]) -> None:
        """Forget finished jobs; unknown ids are ignored."""
        await self._delete(FORGET_ENDED, ids)

    async def clear_history(self) -> None:
        await self._write(_Do(lambda connection: connection.execute(delete(JOBS).where(ENDED))))

    async def flush(self) -> None:
        """Return when all that was handed in so far is on disk."""
        if self._held or not self._writer.idle:
            await self._write(_Do())

    # -- reading ---------------------------------------------------------------------------------

    async def unfinished(self) -> list[JobRecord]:
        """Jobs to run, in the order of the queue."""
        query = select(JOBS).where(OPEN).order_by(JOBS.c.number, JOBS.c.sequence)
        return await self._records(query)

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
        return self._counters[name]

    async def _write(self, op: _Op) -> None:
        waiting = asyncio.get_running_loop().create_future()
        self._hand_over(_Write(op, waiting))
        await waiting

    def _later(self, op: _Op) -> None:
        """Nobody waits for this write: it goes with the next one that somebody waits for, or in a moment."""
        self._held.append(_Write(op))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_MOMENT, self._hand_over)

    def _hand_over(self, *more: _Write) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        writes = [*self._held, *more]
        self._held.clear()
        if writes:
            self._writer.put(writes)

    async def _delete(self, statement: Delete, keys: Sequence[object]) -> None:
        if keys:
            rows = [{"key": key} for key in keys]
            await self._write(_Do(lambda connection: connection.execute(statement, rows)))

    async def _one(self, query: Query) -> JobRecord | None:
        await self.flush()
        with self._reading() as connection:
            row = connection.execute(query.order_by(JOBS.c.sequence.desc()).limit(1)).first()
            return None if row is None else to_record(row)

    async def _records(self, query: Query) -> list[JobRecord]:
        """Many rows, read by a thread: the event loop goes on meanwhile."""
        await self.flush()
        return await asyncio.to_thread(self._read, query)

    def _read(self, query: Query) -> list[JobRecord]:
        with self._reading() as connection:
            return [to_record(row) for row in connection.execute(query)]

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        try:
            with self._engine.connect() as connection:
                yield connection
        except _REFUSALS as error:
            raise StoreFailed(
                "The job store can't be read", _cause(error), "See the disk and its rights."
            ) from error


def _cause(error: Exception) -> object:
    """The driver's own words, without SQLAlchemy's frame around them."""
    return getattr(error, "orig", None) or error


def _tune(connection: sqlite3.Connection, _: object) -> None:
    """WAL lets readers go on during a commit. NORMAL: a commit outlives this process, if not a power cut."""
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=10000"):
        connection.execute(f"PRAGMA {pragma}")


def _answer(writes: Sequence[_Write], outcomes: Sequence[Exception | None]) -> None:
    """Wake who waits: one call into each event loop."""
    answers: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[None], Exception | None]]] = {}
    for write, outcome in zip(writes, outcomes, strict=True):
        if write.waiting is not None:
            answers.setdefault(write.waiting.get_loop(), []).append((write.waiting, outcome))
    for loop, waiting in answers.items():
        with suppress(RuntimeError):  # the loop has ended, and with it everyone who waited
            loop.call_soon_threadsafe(_resolve, waiting)


def _resolve(waiting: Sequence[tuple[asyncio.Future[None], Exception | None]]) -> None:
    for future, outcome in waiting:
        if future.done():  # given up meanwhile
            continue
        if outcome is None:
            future.set_result(None)
        else:
            failure = StoreFailed("The job store refused", _cause(outcome), "Is the disk full or read-only?")
            failure.__cause__ = outcome
            future.set_exception(failure)
