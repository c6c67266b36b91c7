import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.web.conftest import House, a_failing_prompt, a_held_prompt, a_prompt


async def samples(house: House) -> dict[tuple[str, ...], float]:
    """Every sample of /metrics: (name, label values in the order of their names ...) -> value."""
    text = await house.text("/metrics")
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def begun(house: House, job: str) -> None:
    for _ in range(1000):
        if job in (await house.json("/tessera/pool"))["running"]:
            return
    raise TimeoutError(job)


async def test_the_pool_shows_its_devices(house: House):
    pool = await house.json("/tessera/pool")
    assert [d["id"] for d in pool["devices"]] == ["host"]
    assert (pool["running"], pool["pending"]) == ([], [])


async def test_the_pool_shows_what_runs_for_whom_and_who_waits(house: House):
    first = await house.submit(a_held_prompt(1), client_id="ann")
    await begun(house, first)
    second = await house.submit(a_held_prompt(2), client_id="bob")
    pool = await house.json("/tessera/pool")
    (host,) = pool["devices"]
    (op,) = host["running"]
    assert (op["name"], op["kind"], op["jobs"], op["users"]) == ("Gate", "host", [first], ["ann"])
    assert (pool["pending"], pool["pending_count"], pool["ready_ops"]) == ([second], 1, 1)
    assert [(u["client"], u["running"], u["pending"]) for u in pool["users"]] == [
        ("ann", 1, 0),
        ("bob", 0, 1),
    ]
    assert pool["decisions"] == []  # a host has no choice


async def test_an_ended_job_shows_where_its_time_went_and_its_op_is_in_the_timeline(house: House):
    job = await house.submit(a_held_prompt(), client_id="ann")
    await begun(house, job)
    await asyncio.sleep(0.05)
    house.gate.set()
    await house.ended(job)
    pool = await house.json("/tessera/pool")
    (ended,) = pool["jobs"]
    assert (ended["id"], ended["client"], ended["status"], ended["ran"]) == (job, "ann", "completed", 1)
    assert 0.04 <= ended["compute"] <= ended["total"]
    (span,) = pool["timeline"]
    assert (span["device"], span["name"], span["outcome"], span["users"]) == (
        "host",
        "Gate",
        "finished",
        ["ann"],
    )
    assert span["began"] - span["ended"] == pytest.approx(ended["compute"], abs=0.1)
    assert pool["users"] == [
        {
            "client": "ann",
            "running": 0,
            "pending": 0,
            "done": 1,
            "oldest": 0.0,
            "compute": pytest.approx(ended["compute"], abs=0.01),
        }
    ]


async def test_metrics_count_runs_and_reuse(house: House):
    await house.run(a_prompt(5), client_id="ann")
    await house.run(a_prompt(5), client_id="ann")
    found = await samples(house)
    assert found["tessera_cache_misses_total",] == 2
    assert found["tessera_cache_hits_total",] == 2
    assert found["tessera_jobs_total", "completed"] == 2
    assert found["tessera_ops_total", "", "host", "Show", "finished"] == 1
    assert found["tessera_op_seconds_count", "", "host", "Show"] == 1
    assert found["tessera_job_seconds_count", "total"] == 2
    assert found["tessera_job_seconds_sum", "total"] >= found["tessera_job_seconds_sum", "compute"]
    assert found["tessera_device_up", "host"] == 1


async def test_metrics_tell_failures_from_results(house: House):
    await house.run(a_failing_prompt())
    found = await samples(house)
    assert found["tessera_jobs_total", "failed"] == 1
    assert found["tessera_ops_total", "", "host", "Fail", "failed"] == 1
    assert ("tessera_op_seconds_count", "", "host", "Fail") not in found


async def test_merged_work_is_counted(house: House):
    held = await house.submit(a_held_prompt("both"), client_id="ann")
    await begun(house, held)
    await house.submit(a_held_prompt("both"), client_id="ann")
    found = await samples(house)
    assert (found["tessera_cache_merged_total",], found["tessera_cache_misses_total",]) == (1, 1)


async def test_metrics_are_prometheus_text_where_it_looks_for_it(house: House):
    reply = await house.client.get("/metrics")
    assert reply.headers["Content-Type"].startswith("text/plain; version=")
    assert (await house.client.get("/tessera/pool")).headers["Cache-Control"] == "no-store"
