"""How long GET /api/jobs and GET /history take beside a full history.

    python scripts/bench_jobs.py [--jobs 10000] [--pending 200]

Fills a job store with finished jobs as the front end makes them (a workflow of 20 kB each, three images),
then asks for every kind of page over HTTP, and prints the median and the worst of each, in milliseconds.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from aiohttp.test_utils import TestClient, TestServer

from backend.engine.clock import SystemClock
from backend.engine.loop import Engine, Limits
from backend.engine.record import JobRecord, JobStatus
from backend.engine.store import Store
from backend.registry import Registry
from backend.settings import Settings
from backend.storage import Storage
from backend.types import JobId, NodeId
from web.app import build_app

ENDS: tuple[JobStatus, ...] = ("completed", "completed", "completed", "failed", "cancelled")
ASKED = (
    "/api/jobs?status=in_progress,pending&limit=200&offset=0",
    "/api/jobs?status=completed,failed,cancelled&limit=64&offset=0",
    "/api/jobs?status=completed,failed,cancelled&limit=200&offset=0",
    "/api/jobs?status=completed,failed,cancelled&limit=200&offset=9000",
    "/api/jobs?status=failed&limit=200&offset=1500",
    "/api/jobs?status=pending&limit=200",
    "/api/jobs?limit=200",
    "/api/jobs?limit=200&sort_by=execution_duration",
    "/api/jobs?limit=200&sort_by=execution_duration&sort_order=asc&status=completed&offset=4000",
    "/api/jobs?limit=200&sort_order=asc&offset=9000",
    "/api/jobs?limit=200&workflow_id=flow-3",
    "/api/jobs?limit=200&workflow_id=flow-3&status=failed&sort_by=execution_duration",
    "/api/jobs?limit=1&workflow_id=none",
    "/api/jobs/job-5000",
    "/history?max_items=64",
    "/history/job-5000",
)


def a_job(number: int, status: JobStatus) -> JobRecord:
    """As the front end submits it: the prompt, and the editor's workflow beside it."""
    prompt = {str(n): {"class_type": "Node", "inputs": {"text": "a fox " * 20, "n": n}} for n in range(20)}
    workflow = {"id": f"flow-{number % 7}", "nodes": [{"id": n, "text": "x" * 900} for n in range(20)]}
    images = [{"filename": f"{number}_{i}.png", "subfolder": "", "type": "output"} for i in range(3)]
    record = JobRecord(
        id=JobId(f"job-{number}"),
        number=float(number),
        sequence=number,
        prompt=prompt,
        targets=(NodeId("9"),),
        created=1_700_000_000_000 + 1000 * number,
        extra={"extra_pnginfo": {"workflow": workflow}},
        status=status,
    )
    if status in ("pending", "running"):
        return record
    started = record.created + 10
    messages = (("execution_start", {"prompt_id": record.id, "timestamp": started}),)
    ended = started + 997 * number % 60_000
    return replace(record, started=started, ended=ended, outputs={"9": {"images": images}}, messages=messages)


async def fill(store: Store, jobs: int, pending: int) -> None:
    for number in range(1, jobs + pending + 1):
        status = ENDS[number % len(ENDS)] if number <= jobs else "pending"
        record = a_job(store.next_sequence(), status)
        adding = store.add(replace(record, status="pending", started=None, ended=None))
        if status == "pending":
            await adding
            continue
        await adding
        store.finish(record)
    await store.flush()


async def measure(folder: Path, jobs: int, pending: int, rounds: int) -> float:
    """Prints a line for each question. Returns: the slowest median of the job lists, in milliseconds."""
    settings = Settings(base_directory=folder)
    storage, store = Storage(settings), Store.open(folder / "jobs.db")
    storage.prepare()
    await fill(store, jobs, pending)
    engine = Engine(Registry([]), {}, store, SystemClock(), Limits())
    worst = 0.0
    async with TestClient(TestServer(build_app(engine, Registry([]), storage, settings))) as client:
        for path in ASKED:
            times = []
            for _ in range(rounds):
                begun = time.perf_counter()
                reply = await client.get(path)
                body = await reply.read()
                times.append(1000 * (time.perf_counter() - begun))
                assert reply.status == 200, body
            found = json.loads(body)
            count = len(found.get("jobs", found))
            median = statistics.median(times)
            worst = max(worst, median if path.startswith("/api/jobs?") else 0.0)
            print(f"{median:8.2f} ms  worst {max(times):8.2f} ms  {count:4} in {len(body):8} B  {path}")
    store.close()
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--pending", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=20)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        worst = asyncio.run(measure(Path(folder), asked.jobs, asked.pending, asked.rounds))
    print(f"slowest list, median: {worst:.2f} ms")


if __name__ == "__main__":
    main()
