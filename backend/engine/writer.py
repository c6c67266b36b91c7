"""What commits the store's writes: on the calling thread where that takes no time, else on one of its own."""

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TypeAlias

from sqlalchemy import Connection, Delete, Engine, Insert, Update, delete, select
from sqlalchemy.exc import SQLAlchemyError, StatementError

from backend.engine.tables import (
    ARRIVE,
    COUNT,
    ENDED,
    ENTERED,
    FINISH,
    HISTORY_CAP,
    HISTORY_SIZE,
    INSERT,
    JOBS,
    NEW,
    REPLACE,
    START,
    Values,
)
from backend.errors import StoreFailed
from backend.types import JobId
from backend.values import frozen

log = logging.getLogger(__name__)

_CHECKPOINT = 500  # commits between checkpoints of SQLite's log
_GROUP = 500  # most hand-overs in one transaction: an add never waits behind more than these
# What a statement raises: the database's errors, and the driver's for values it can't bind.
REFUSALS = (SQLAlchemyError, ValueError, OverflowError)


@frozen
class Add:
    """A job arrives."""

    key: int
    row: Values


@frozen
class Enter:
    """A job that has arrived takes its place among the others, as far as it has come by now."""

    row: Values
    over: bool


@frozen
class Start:
    key: int
    at: int


@frozen
class Finish:
    key: int
    id: JobId
    row: Values


@frozen
class Do:
    """Anything rarer than the above; nothing at all, to wait for what came before."""

    run: Callable[[Connection], object] = lambda connection: None


Entry: TypeAlias = Add | Enter | Start | Finish | Do
Outcome: TypeAlias = tuple[
    asyncio.Future[None], Exception | None
]  # who waits for a write, and what became of it


@frozen
class Write:
    op: Entry
    waiting: asyncio.Future[None] | None = None


class Compiled:
    """A statement turned into SQL once, and given to the driver as it is: SQLAlchemy's way to it, and its
    context around each execution, cost more than SQLite's execution.
    """

    def __init__(self, statement: Insert | Update | Delete, engine: Engine) -> None:
        compiled = statement.compile(engine)
        self._errors = engine.dialect.loaded_dbapi.Error
        self._sql = str(compiled)
        self._order = tuple(compiled.positiontup or ()) if compiled.positional else None
        self._constants = {name: value for name, value in compiled.params.items() if value is not None}

    def __call__(self, connection: Connection, rows: Sequence[Mapping[str, object]]) -> None:
        """rows: what is bound, by name; nothing is done where there are none."""
        if not rows:
            return
        full = [{**self._constants, **row} for row in rows] if self._constants else rows
        order = self._order
        given = full if order is None else [tuple([row[name] for name in order]) for row in full]
        cursor = connection.connection.cursor()
        try:
            cursor.executemany(self._sql, given)
        except self._errors as error:
            raise StatementError(str(error), self._sql, None, error) from error
        finally:
            cursor.close()


class Writer:
    """Commits, on the calling thread or its own. counters: what `next_number` and `next_sequence` may come to
    before they are written again.

    arrived: rows of jobs that are on disk and not yet entered, by sequence; whoever enters one takes it out.
    """

    def __init__(self, engine: Engine, finished: int, history: int, counters: dict[str, int]) -> None:
        self._engine, self._finished, self._history, self._counters = engine, finished, history, counters
        self._queue: queue.SimpleQueue[Sequence[Write] | None] = queue.SimpleQueue()
        self._handed = self._done = self._commits = 0
        self._written = dict(counters)
        self._connection: Connection | None = None  # kept: taking one costs as much as SQLite's commit
        self.arrived: dict[int, Values] = {}
        self._arrive, self._entered = Compiled(ARRIVE, engine), Compiled(ENTERED, engine)
        self._insert, self._start = Compiled(INSERT, engine), Compiled(START, engine)
        self._finish, self._replace = Compiled(FINISH, engine), Compiled(REPLACE, engine)
        self._thread = threading.Thread(target=self._work, name="store", daemon=True)
        self._thread.start()

    @property
    def idle(self) -> bool:
        """Whether all that was handed in is on disk (or was refused)."""
        return self._done == self._handed

    def require_open(self) -> None:
        if not self._thread.is_alive():
            raise StoreFailed("The job store is closed", "a job came late", "Start the server again.")

    def put(self, writes: Sequence[Write]) -> None:
        self.require_open()
        self._handed += len(writes)
        self._queue.put(writes)

    def add(self, add: Add) -> None:
        """Commit an arrival on this thread; only while `idle`. Raises: StoreFailed."""
        if (refusal := self.now([Write(add)])[0]) is not None:
            raise refused(refusal)

    def now(self, writes: Sequence[Write]) -> list[Exception | None]:
        """Commit on this thread; only while `idle`, and for writes that take no time."""
        outcomes = self._commit(writes)
        if self._commits >= _CHECKPOINT:
            self._queue.put(())  # nothing to write: the thread has only the log to look after
        return outcomes

    def stop(self) -> None:
        """Commit what is left and end."""
        self._queue.put(None)
        self._thread.join()
        self._disconnect()

    def _work(self) -> None:
        while True:
            group = [self._queue.get()]
            while len(group) < _GROUP and not self._queue.empty():
                group.append(self._queue.get())
            writes = [write for writes in group if writes is not None for write in writes]
            try:
                outcomes = self._commit(writes) if writes else []
            except Exception as error:  # a fault of ours: who waits must hear of it, or would wait for ever
                log.exception("The job store failed")
                outcomes = [error] * len(writes)
            self._done += len(writes)
            _answer(writes, outcomes)
            if self._commits >= _CHECKPOINT:
                self._checkpoint()
            if None in group:
                return

    def _commit(self, writes: Sequence[Write]) -> list[Exception | None]:
        """One transaction; where it is refused, one per write, so that a bad write fails alone."""
        self._commits += 1
        try:
            if self._connection is None:
                self._connection = self._engine.connect()
            with self._connection.begin():
                self._apply(self._connection, [write.op for write in writes])
        except REFUSALS as error:
            self._disconnect()
            if len(writes) > 1:
                return [outcome for write in writes for outcome in self._commit([write])]
            if writes[0].waiting is None and not isinstance(writes[0].op, Add):
                log.error("The job store could not note how a job went on: %s", cause(error))
            return [error]
        self.arrived.update((op.key, op.row) for write in writes if isinstance(op := write.op, Add))
        return [None] * len(writes)

    def _disconnect(self) -> None:
        """After a refusal, too: the server of another database may have closed it."""
        if self._connection is not None:
            with suppress(SQLAlchemyError):
                self._connection.close()
            self._connection = None

    def _checkpoint(self) -> None:
        """Bring SQLite's log into the database. This waits for the disk, so no commit does it in passing."""
        self._commits = 0
        if self._engine.dialect.name == "sqlite":
            with suppress(SQLAlchemyError), self._engine.connect() as connection:  # the next one will do
                connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)")

    def _apply(self, connection: Connection, ops: Sequence[Entry]) -> None:
        """Writes of different jobs commute: they go together by their kind, up to the next `Do`."""
        group: list[Add | Enter | Start | Finish] = []
        for op in (*ops, Do()):
            if isinstance(op, Do):
                self._flush(connection, group)
                group = []
                op.run(connection)
            else:
                group.append(op)

    def _flush(self, connection: Connection, group: Sequence[Add | Enter | Start | Finish]) -> None:
        added, entered, started, ended = list[Values](), list[Values](), list[Values](), list[Values]()
        same: list[Values] = []
        for op in group:
            match op:
                case Add(_, row):
                    added.append(row)
                case Start(key, at):
                    started.append({"key": key, "at": at})
                case Enter(row, over):
                    entered.append({**NEW, **row, "finished": self._ended(same, row["id"]) if over else None})
                case Finish(key, id, row):
                    ended.append({"key": key, **row, "finished": self._ended(same, id)})
        if added:
            self._arrive(connection, added)
            self.count(connection)
        self._insert(connection, entered)
        self._entered(connection, entered)
        done = {row["key"] for row in ended}
        self._start(connection, [row for row in started if row["key"] not in done])
        self._finish(connection, ended)
        if same:
            self._replace(connection, same)
            self._prune(connection, len(same))

    def _ended(self, same: list[Values], id: object) -> int:
        """The next number in the order of the history. same: gets what an older entry of that id is."""
        self._finished += 1
        same.append({"same": id, "before": self._finished})
        return self._finished

    def count(self, connection: Connection) -> None:
        """Write the counters, where they have come past what is written."""
        if self._written != self._counters:
            self._written = dict(self._counters)
            connection.execute(COUNT, [{"key": key, "now": now} for key, now in self._written.items()])

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


def cause(error: Exception) -> object:
    """The driver's own words, without SQLAlchemy's frame around them."""
    return getattr(error, "orig", None) or error


def refused(outcome: Exception) -> StoreFailed:
    failure = StoreFailed("The job store refused", cause(outcome), "Is the disk full or read-only?")
    failure.__cause__ = outcome
    return failure


def _answer(writes: Sequence[Write], outcomes: Sequence[Exception | None]) -> None:
    """Wake who waits, from the writer's thread: one call into each event loop."""
    answers: dict[asyncio.AbstractEventLoop, list[Outcome]] = {}
    for write, outcome in zip(writes, outcomes, strict=True):
        if write.waiting is not None:
            answers.setdefault(write.waiting.get_loop(), []).append((write.waiting, outcome))
    for loop, waiting in answers.items():
        with suppress(RuntimeError):  # the loop has ended, and with it everyone who waited
            loop.call_soon_threadsafe(_resolve, waiting)


def _resolve(outcomes: Sequence[Outcome]) -> None:
    for future, outcome in outcomes:
        if future.done():  # given up meanwhile
            continue
        if outcome is None:
            future.set_result(None)
        else:
            future.set_exception(refused(outcome))
