"""Jobs on disk: what was acknowledged is kept, in order, through restarts and crashes."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, rule
from sqlalchemy import select
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from backend.engine.record import JobRecord, JobStatus
from backend.engine.store import Store
from backend.engine.tables import (
    ARRIVALS,
    ARRIVE,
    COUNT,
    COUNTERS,
    ENTERED,
    FINISH,
    FORGET_ENDED,
    FORGET_PENDING,
    HISTORY_SIZE,
    INSERT,
    JOBS,
    REPLACE,
    START,
    chosen,
    count_query,
    page_query,
)
from backend.errors import StoreFailed

ROOT = Path(__file__).parents[3]
MESSAGES = (("execution_start", {"prompt_id": "a", "timestamp": 5}), ("execution_success", {}))


@pytest.fixture
def store(tmp_path):
    opened = Store.open(tmp_path / "below" / "jobs.db")
    yield opened
    opened.close()


def a_job(store: Store, id: str | None = None, number: float | None = None, **more: Any) -> JobRecord:
    sequence = store.next_sequence()
    place = float(store.next_number()) if number is None else number
    prompt = {"1": {"class_type": "EmptyImage", "inputs": {"width": 8}}}
    return JobRecord(id or f"job-{sequence}", place, sequence, prompt, ("1",), 1000 + sequence, **more)


def ended(record: JobRecord, status: JobStatus = "completed", **more: Any) -> JobRecord:
    outputs = {"1": {"images": [{"filename": f"{record.sequence}.png", "subfolder": "", "type": "output"}]}}
    given = {"started": 2000, "ended": 2000 + record.sequence, "outputs": outputs, "messages": MESSAGES}
    return replace(record, status=status, **{**given, **more})


async def finished(store: Store, id: str | None = None, **more: Any) -> JobRecord:
    record = a_job(store, id)
    await store.add(record)
    store.finish(done := ended(record, **more))
    return done


def ids(records: list[Any]) -> list[str]:
    return [record.id for record in records]


# -- a job's life --------------------------------------------------------------------------------


async def test_a_job_comes_back_as_it_was_put_in(store):
    record = a_job(
        store, client="c", extra={"extra_pnginfo": {"workflow": {"id": "w"}}, "x": ["é", 1.5, None]}
    )
    await store.add(record)
    assert await store.job(record.id) == record
    store.mark_started(record.sequence, 1500)
    assert await store.job(record.id) == replace(record, status="running", started=1500)
    done = ended(record, meta={"1": {"node_id": "1"}}, error={"node_id": "1"})
    store.finish(done)
    assert await store.job(record.id) == await store.history_one(record.id) == done


async def test_the_queue_is_in_the_order_of_number_and_then_of_arrival(store):
    for number in (3.0, -2.0, 3.0, 0.5):
        await store.add(a_job(store, number=number))
    assert ids(await store.unfinished()) == ["job-2", "job-4", "job-1", "job-3"]


async def test_a_running_job_is_pending_again_after_a_restart(tmp_path):
    first = Store.open(tmp_path / "jobs.db")
    record = a_job(first)
    await first.add(record)
    first.mark_started(record.sequence, 1500)
    first.close()
    second = Store.open(tmp_path / "jobs.db")
    assert await second.unfinished() == [record]
    second.close()


async def test_counters_go_on_after_a_restart_even_where_rows_are_gone(tmp_path):
    first = Store.open(tmp_path / "jobs.db")
    for _ in range(3):
        await finished(first)
    await first.clear_history()
    first.close()
    second = Store.open(tmp_path / "jobs.db")
    assert (second.next_sequence(), second.next_number()) == (4, 4)
    second.close()


async def test_secrets_never_reach_the_disk(tmp_path):
    store = Store.open(tmp_path / "jobs.db")
    extra = {"auth_token_comfy_org": "HUSH-HUSH", "api_key_comfy_org": "HUSH-HUSH", "client_id": "c"}
    record = a_job(store, extra=extra)
    await store.add(record)
    store.finish(ended(record))
    await store.flush()
    assert b"HUSH-HUSH" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())
    kept = await store.job(record.id)
    assert kept is not None
    assert kept.extra == {"client_id": "c"}
    store.close()


async def test_two_unfinished_jobs_of_one_id_both_run_and_the_later_end_is_the_history(store):
    first, second = a_job(store, "same"), a_job(store, "same")
    await store.add(first)
    await store.add(second)
    assert len(await store.unfinished()) == 2
    store.finish(ended(second))
    assert await store.unfinished() == [first]
    store.finish(ended(first))
    assert ids(await store.history()) == ["same"]
    assert (await store.history_one("same")).sequence == first.sequence


async def test_a_finished_jobs_id_used_again_keeps_its_history_until_the_new_end(store):
    old = await finished(store, "same")
    await finished(store, "other")
    again = a_job(store, "same")
    await store.add(again)
    assert await store.history_one("same") == old
    assert (await store.job("same")).status == "pending"
    store.finish(ended(again, "failed"))
    assert [(r.id, r.status) for r in await store.history()] == [("other", "completed"), ("same", "failed")]


async def test_removing_takes_pending_jobs_only(store):
    waiting, running, over = a_job(store), a_job(store), a_job(store)
    for record in (waiting, running, over):
        await store.add(record)
    store.mark_started(running.sequence, 1)
    store.finish(ended(over))
    await store.remove_pending([waiting.sequence, running.sequence, over.sequence, 999])
    assert await store.job(waiting.id) is None
    assert ids(await store.unfinished()) == [running.id]
    assert ids(await store.history()) == [over.id]


# -- history -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "012345"),
        ({"max_items": 2}, "45"),
        ({"max_items": 2, "offset": 0}, "01"),
        ({"max_items": 2, "offset": 4}, "45"),
        ({"offset": 3}, "345"),
        ({"offset": -1}, "012345"),
        ({"max_items": 2, "offset": -1}, "45"),
        ({"max_items": 0}, ""),
        ({"max_items": 0, "offset": 0}, ""),
        ({"max_items": -3}, ""),
        ({"max_items": 100}, "012345"),
        ({"max_items": 10**30, "offset": 10**30}, ""),
        ({"max_items": 10**30}, "012345"),
    ],
)
async def test_history_pages_as_recorded(store, options, expected):
    for n in range(6):
        await finished(store, str(n))
    assert "".join(ids(await store.history(**options))) == expected


async def test_history_is_in_the_order_of_the_ends(store):
    first, second = a_job(store), a_job(store)
    await store.add(first)
    await store.add(second)
    store.finish(ended(second))
    store.finish(ended(first))
    assert ids(await store.history()) == [second.id, first.id]


async def test_history_loses_just_what_is_deleted(store):
    for n in range(4):
        await finished(store, str(n))
    pending = a_job(store, "2")
    await store.add(pending)
    await store.delete_history(["1", "2", "absent"])
    assert ids(await store.history()) == ["0", "3"]
    await store.clear_history()
    assert await store.history() == []
    assert await store.unfinished() == [pending]


async def test_the_oldest_entries_go_beyond_the_cap(store, monkeypatch):
    monkeypatch.setattr("backend.engine.writer.HISTORY_CAP", 5)
    waiting = a_job(store)
    await store.add(waiting)
    for n in range(9):
        await finished(store, str(n))
    assert ids(await store.history()) == ["4", "5", "6", "7", "8"]
    await store.delete_history(["5", "6"])
    await finished(store, "9")
    assert ids(await store.history()) == ["4", "7", "8", "9"]
    assert await store.unfinished() == [waiting]


# -- lists ---------------------------------------------------------------------------------------


async def test_a_page_of_jobs_is_chosen_sorted_and_counted(store):
    for n in range(3):
        await finished(store, f"done-{n}", ended=2000 + [5, 9, 1][n])
    await finished(store, "bad", status="failed", error={"node_id": "1"})
    await store.add(a_job(store, "waits", extra={"extra_pnginfo": {"workflow": {"id": "w"}}}))
    rows, total = await store.jobs_page()
    assert (ids(rows), total) == (["waits", "bad", "done-2", "done-1", "done-0"], 5)
    rows, total = await store.jobs_page(["completed", "failed"], limit=2, offset=1, sort_order="asc")
    assert (ids(rows), total) == (["done-1", "done-2"], 4)
    rows, _ = await store.jobs_page(["completed"], sort_by="execution_duration")
    assert ids(rows) == ["done-1", "done-0", "done-2"]
    rows, total = await store.jobs_page(workflow_id="w")
    assert (ids(rows), total) == (["waits"], 1)
    assert (await store.jobs_page([]))[1] == 0
    assert await store.jobs_page(limit=1, offset=-5) == (
        [(await store.job("waits")).summary()],
        5,
    )


async def test_a_row_of_a_page_equals_the_summary_of_its_job(store):
    record = await finished(store, "a", error={"node_id": "1"}, extra={})
    rows, _ = await store.jobs_page()
    assert rows == [record.summary()]


@pytest.mark.parametrize("workflow", [None, "w"])
@pytest.mark.parametrize("sort", ["created_at", "execution_duration"])
@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_lists_find_their_page_inside_an_index(store, workflow, sort, order):
    wanted = chosen(["completed", "failed"], workflow)
    for query in (page_query(wanted, sort, order, 64, 128), count_query(wanted)):
        plan = query_plan(store, query)
        walks = [line for line in plan if line.startswith(("SCAN", "SEARCH"))]
        assert walks
        assert all("COVERING INDEX" in w or "INTEGER PRIMARY KEY" in w for w in walks), plan


async def test_the_queue_and_the_history_walk_an_index_in_order(store):
    for query in (
        select(JOBS).where(JOBS.c.finished.is_(None)).order_by(JOBS.c.number, JOBS.c.sequence),
        select(JOBS).where(JOBS.c.finished.isnot(None)).order_by(JOBS.c.finished).limit(5),
    ):
        plan = query_plan(store, query)
        assert not any("TEMP B-TREE" in line for line in plan), plan


def query_plan(store: Store, query: Any) -> list[str]:
    text = str(query.compile(store._engine, compile_kwargs={"literal_binds": True}))
    with store._engine.connect() as connection:
        return [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}")]


# -- when things go wrong ------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{"id": "a\0b"}, {"id": "\ud800"}, {"extra": {"x": object()}}])
async def test_a_job_that_cant_be_written_down_fails_alone(store, changes):
    good, bad = a_job(store), replace(a_job(store), **changes)
    answers = await asyncio.gather(store.add(good), store.add(bad), return_exceptions=True)
    assert answers[0] is None
    assert isinstance(answers[1], StoreFailed)
    assert await store.unfinished() == [good]


async def test_a_write_that_the_database_refuses_fails_alone(store):
    good = [a_job(store) for _ in range(5)]
    bad = [replace(good[0], id="twice"), replace(a_job(store), created=10**30)]
    answers = await asyncio.gather(*map(store.add, [*good, *bad]), return_exceptions=True)
    assert answers[:5] == [None] * 5
    assert all(isinstance(answer, StoreFailed) for answer in answers[5:])
    assert ids(await store.unfinished()) == ids(good)


async def test_outputs_that_are_no_json_are_kept_as_text(store):
    record = a_job(store)
    await store.add(record)
    store.finish(ended(record, outputs={"1": {"v": [Path("x")]}}))
    assert (await store.job(record.id)).outputs == {"1": {"v": [repr(Path("x"))]}}


async def test_outputs_that_cant_be_written_at_all_are_left_out_and_the_job_ends(store, caplog):
    record = a_job(store)
    await store.add(record)
    store.finish(ended(record, outputs={"1": {("no", "key"): [1]}}))
    assert (await store.history_one(record.id)).outputs == {}
    assert "keys must be strings" in caplog.text


async def test_a_closed_store_says_so(tmp_path):
    store = Store.open(tmp_path / "jobs.db")
    record = a_job(store)
    store.close()
    with pytest.raises(StoreFailed, match="closed"):
        await store.add(record)


def test_a_file_that_is_no_database_is_named(tmp_path):
    path = tmp_path / "jobs.db"
    path.write_text("this is not a database, whatever its name says" * 50)
    with pytest.raises(
        StoreFailed, match=r"jobs\.db does not open: file is not a database\. .*move a damaged file"
    ):
        Store.open(path)


def test_a_store_of_another_version_is_left_alone(tmp_path):
    Store.open(tmp_path / "jobs.db").close()
    with sqlite3.connect(tmp_path / "jobs.db") as raw:
        raw.execute("UPDATE counters SET value = 99 WHERE name = 'schema'")
    raw.close()
    with pytest.raises(StoreFailed, match="layout is version 99"):
        Store.open(tmp_path / "jobs.db")


def test_every_statement_is_postgresql_too():
    dialect = postgresql.dialect()
    statements = [
        ARRIVE,
        ENTERED,
        INSERT,
        START,
        FINISH,
        REPLACE,
        FORGET_PENDING,
        FORGET_ENDED,
        COUNT,
        HISTORY_SIZE,
    ]
    wanted = chosen(["completed"], "w")
    statements += [page_query(wanted, "execution_duration", "asc", 5, 5), count_query(wanted)]
    tables = map(CreateTable, (JOBS, ARRIVALS, COUNTERS))
    for statement in (*tables, *map(CreateIndex, JOBS.indexes), *statements):
        assert str(statement.compile(dialect=dialect))
    assert "sequence BIGINT NOT NULL" in str(CreateTable(JOBS).compile(dialect=dialect))
    assert "number FLOAT(53) NOT NULL" in str(CreateTable(JOBS).compile(dialect=dialect))


def test_an_unknown_kind_of_database_is_refused():
    with pytest.raises(StoreFailed, match="nosuchdb"):
        Store.open("nosuchdb://host/jobs")


WRITER = """
import asyncio, sys
from pathlib import Path
from backend.engine.record import JobRecord
from backend.engine.store import Store

async def main():
    store = Store.open(Path(sys.argv[1]))
    async def one():
        n = store.next_sequence()
        await store.add(JobRecord(f"job-{n}", float(n), n, {"p": "x" * 500}, ("1",), n))
        print(n, flush=True)
    while True:
        await asyncio.gather(*(one() for _ in range(7)))

asyncio.run(main())
"""


async def test_a_long_job_is_entered_while_it_runs_and_ends_there(store):
    """Its row stands among the others by the time that it starts or ends."""
    early, late = a_job(store), a_job(store)
    await store.add(early)
    store.mark_started(early.sequence, 5)
    await store.add(late)
    assert [r.status for r in await store.unfinished()] == ["running", "pending"]
    store.mark_started(late.sequence, 6)
    store.finish(ended(late, started=6))
    assert [(r.id, r.started) for r in await store.unfinished()] == [(early.id, 5)]
    store.finish(ended(early, started=5))
    assert ids(await store.history()) == ids([late, early])


async def test_a_job_that_is_over_in_a_moment_is_entered_by_itself(tmp_path):
    store, record = Store.open(tmp_path / "jobs.db"), None
    for _ in range(3):
        record = a_job(store)
        await store.add(record)
        store.finish(ended(record))
    await asyncio.sleep(0.2)
    with sqlite3.connect(tmp_path / "jobs.db") as raw:
        assert raw.execute("SELECT count(*) FROM arrivals").fetchone() == (0,)
        assert raw.execute("SELECT count(*) FROM jobs WHERE status = 'completed'").fetchone() == (3,)
    raw.close()
    store.close()


def test_a_killed_process_leaves_every_acknowledged_job(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "jobs.db")],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    acknowledged = [int(process.stdout.readline()) for _ in range(100)]
    process.send_signal(signal.SIGKILL)
    acknowledged += [int(line) for line in process.stdout.read().split(b"\n")[:-1]]
    process.wait()
    process.stdout.close()
    store = Store.open(tmp_path / "jobs.db")
    kept = {record.sequence for record in asyncio.run(store.unfinished())}
    assert kept >= set(acknowledged)
    assert store.next_sequence() > max(kept)
    store.close()


# -- a law: what was acknowledged is there ---------------------------------------------------------


async def _in_loop(call: Callable[[], None]) -> None:
    call()


class StoreMachine(RuleBasedStateMachine):
    """Adds, starts, ends, deletions and restarts against a model in plain lists."""

    open_jobs: Bundle[JobRecord] = Bundle("open_jobs")

    @initialize()
    def begin(self) -> None:
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "jobs.db"
        self.store = Store.open(self.path)
        self.unfinished: dict[int, JobRecord] = {}
        self.history: list[JobRecord] = []

    @rule(target=open_jobs, id=st.sampled_from("abc"), number=st.sampled_from([-1.0, 0.0, 0.5, 2.0]))
    def add(self, id: str, number: float) -> JobRecord:
        record = a_job(self.store, id, number)
        self.runner.run(self.store.add(record))
        self.unfinished[record.sequence] = record
        return record

    @rule(count=st.integers(2, 5))
    def add_together(self, count: int) -> None:
        records = [a_job(self.store, "together", 1.0) for _ in range(count)]

        async def all_at_once() -> None:
            await asyncio.gather(*map(self.store.add, records))

        self.runner.run(all_at_once())
        self.unfinished |= {record.sequence: record for record in records}

    @rule(record=open_jobs)
    def start(self, record: JobRecord) -> None:
        if record.sequence in self.unfinished:
            self.runner.run(_in_loop(lambda: self.store.mark_started(record.sequence, 1)))
            self.unfinished[record.sequence] = replace(record, status="running", started=1)

    @rule(record=consumes(open_jobs), status=st.sampled_from(["completed", "failed", "cancelled"]))
    def finish(self, record: JobRecord, status: JobStatus) -> None:
        if self.unfinished.pop(record.sequence, None) is not None:
            done = ended(record, status)
            self.runner.run(_in_loop(lambda: self.store.finish(done)))
            self.history = [kept for kept in self.history if kept.id != done.id] + [done]

    @rule(record=open_jobs)
    def remove(self, record: JobRecord) -> None:
        self.runner.run(self.store.remove_pending([record.sequence]))
        known = self.unfinished.get(record.sequence)
        if known is not None and known.status == "pending":
            del self.unfinished[record.sequence]

    @rule(id=st.sampled_from(["a", "b", "none"]))
    def delete(self, id: str) -> None:
        self.runner.run(self.store.delete_history([id]))
        self.history = [kept for kept in self.history if kept.id != id]

    @rule()
    def clear(self) -> None:
        self.runner.run(self.store.clear_history())
        self.history = []

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = Store.open(self.path)
        self.unfinished = {
            key: replace(kept, status="pending", started=None) for key, kept in self.unfinished.items()
        }

    @rule()
    def look(self) -> None:
        queue = sorted(self.unfinished.values(), key=lambda record: (record.number, record.sequence))
        assert self.runner.run(self.store.unfinished()) == queue
        assert self.runner.run(self.store.history()) == self.history
        rows, total = self.runner.run(self.store.jobs_page(sort_order="asc"))
        everything = sorted([*queue, *self.history], key=lambda record: record.sequence)
        assert (rows, total) == ([record.summary() for record in everything], len(everything))

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.look()
            self.store.close()
            self.runner.close()
            self.folder.cleanup()


StoreMachine.TestCase.settings = settings(max_examples=20, stateful_step_count=20)
TestStore = StoreMachine.TestCase
