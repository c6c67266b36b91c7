from dataclasses import replace

import pytest

from backend.engine.record import JobRecord
from backend.schedule.forecast import Forecast
from backend.types import JobId, NodeId
from tests.web.conftest import House, a_failing_prompt, a_held_prompt, a_prompt, recorded

STATES = ["completed", "failed", "cancelled", "in_progress", "pending"]
WORKFLOW = {"extra_pnginfo": {"workflow": {"id": "flow-1", "nodes": []}}}


def matches(value: dict, wanted: dict) -> None:
    """Every name of `wanted` is there, with the same kind of value; <TS> is a number."""
    for name, sample in wanted.items():
        number = sample == "<TS>" or isinstance(sample, int)
        assert isinstance(value[name], int | float) if number else isinstance(value[name], type(sample)), name


async def test_jobs_of_every_state_have_the_recorded_names(house: House):
    cancelled = await house.submit(a_held_prompt(1))
    await house.client.post("/interrupt")
    await house.ended(cancelled)
    house.gate.set()  # the host's one thread is still in there
    done = await house.run(a_prompt(), client_id="client-a", extra_data=WORKFLOW)
    failed = await house.run(a_failing_prompt())
    house.gate.clear()
    running, pending = await house.submit(a_held_prompt(2)), await house.submit(a_held_prompt(3))
    ours = {j["id"]: j for j in (await house.json("/api/jobs?limit=50"))["jobs"]}
    assert list(ours) == [pending, running, failed, done, cancelled]

    replies = [case["response"] for case in recorded("jobs_api")["cases"] if "response" in case]
    samples = {j["status"]: j for r in replies for j in r.get("jobs", ())}
    states = dict(zip([done, failed, cancelled, running, pending], STATES, strict=True))
    for id, state in states.items():
        assert ours[id]["status"] == state
        sample = {k: v for k, v in samples[state].items() if k != "preview_output"}
        matches(ours[id], sample)
        assert ours[id].keys() <= samples[state].keys() | {"workflow_id", "execution_start_time"}
    assert ours[done]["workflow_id"] == "flow-1"
    error = ours[failed]["execution_error"]
    assert (error["node_id"], error["node_type"], error["exception_type"]) == ("1", "Fail", "ValueError")
    assert isinstance(error["traceback"], list)


async def test_a_job_in_detail_opens_its_workflow(house: House):
    id = await house.run(a_prompt(), client_id="client-a", extra_data=WORKFLOW)
    job = await house.json(f"/api/jobs/{id}")
    cases = recorded("jobs_api")["cases"]
    sample = next(c["response"] for c in cases if "workflow" in c.get("response", ()))
    matches(job, {k: v for k, v in sample.items() if k != "preview_output"})
    assert job["outputs"] == {"2": {"shown": [2]}}
    assert job["execution_status"]["status_str"] == "success"
    assert job["workflow"]["prompt"] == a_prompt()
    assert job["workflow"]["extra_data"]["extra_pnginfo"] == WORKFLOW["extra_pnginfo"]
    assert isinstance(job["workflow"]["extra_data"]["create_time"], int)


async def test_an_unknown_job_is_404(house: House):
    reply = await house.client.get("/api/jobs/absent")
    assert (reply.status, await reply.json()) == (404, {"error": "Job not found"})


async def test_pages_say_whether_there_is_more(house: House):
    for n in range(5):
        await house.run(a_prompt(n), prompt_id=f"j{n}")
    page = await house.json("/api/jobs?status=completed&limit=2&offset=1")
    assert [j["id"] for j in page["jobs"]] == ["j3", "j2"]
    assert page["pagination"] == {"offset": 1, "limit": 2, "total": 5, "has_more": True}
    last = await house.json("/api/jobs?limit=2&offset=4&sort_order=asc")
    assert [j["id"] for j in last["jobs"]] == ["j4"]
    assert last["pagination"]["has_more"] is False


async def test_a_page_without_a_limit_has_a_number_all_the_same(house: House):
    pagination = (await house.json("/api/jobs?offset=-3"))["pagination"]
    assert isinstance(pagination["limit"], int)
    assert pagination["offset"] == 0


async def test_jobs_of_one_workflow_can_be_asked_for(house: House):
    mine = await house.run(a_prompt(1), extra_data=WORKFLOW)
    await house.run(a_prompt(2))
    assert [j["id"] for j in (await house.json("/api/jobs?workflow_id=flow-1"))["jobs"]] == [mine]


@pytest.mark.parametrize(
    "query",
    [
        "status=done",
        "sort_by=name",
        "sort_order=up",
        "limit=0",
        "limit=-1",
        "limit=x",
        "offset=x",
        "limit=1.5",
    ],
)
async def test_a_bad_query_is_400_and_says_why(house: House, query: str):
    reply = await house.client.get(f"/api/jobs?{query}")
    assert reply.status == 400
    assert query.partition("=")[2] in (await reply.json())["error"]


async def test_cancel_removes_what_waits_and_stops_what_runs(house: House):
    running, waiting = await house.submit(a_held_prompt(1)), await house.submit(a_held_prompt(2))
    assert (await house.client.post(f"/api/jobs/{waiting}/cancel")).status == 200
    assert (await house.client.get(f"/api/jobs/{waiting}")).status == 404
    reply = await house.client.post("/api/jobs/cancel", json={"job_ids": [running, "absent"]})
    assert reply.status == 200
    assert (await house.json(f"/api/jobs/{running}"))["status"] == "cancelled"


async def test_cancel_leaves_a_finished_job_alone(house: House):
    done = await house.run(a_prompt())
    assert (await house.client.post(f"/api/jobs/{done}/cancel")).status == 200
    assert (await house.json(f"/api/jobs/{done}"))["status"] == "completed"


@pytest.mark.parametrize("body", [b"{}", b'{"job_ids": "x"}', b"[]"])
async def test_cancel_without_a_list_of_ids_is_400(house: House, body: bytes):
    assert (await house.client.post("/api/jobs/cancel", data=body)).status == 400


async def test_a_jobs_files_come_page_by_page(house: House):
    shown = {"images": [{"filename": f"{n}.png", "subfolder": "s", "type": "output"} for n in range(3)]}
    record = JobRecord(JobId("j"), 1.0, house.engine.store.next_sequence(), {}, (NodeId("9"),), 1)
    await house.engine.store.add(record)
    ended = replace(record, status="completed", ended=2, outputs={"9": {**shown, "text": ["t"]}}, messages=())
    house.engine.store.finish(ended)
    page = await house.json("/api/jobs/j/assets?limit=2&offset=1")
    assert [a["name"] for a in page["assets"]] == ["1.png", "2.png"]
    assert page["assets"][0]["preview_url"] == "api/view?filename=1.png&subfolder=s&type=output"
    assert (page["assets"][0]["node_id"], page["assets"][0]["output_key"]) == ("9", "images")
    assert page["pagination"] == {"offset": 1, "limit": 2, "total": 3, "has_more": False}
    assert (await house.client.get("/api/jobs/absent/assets")).status == 404
    assert (await house.client.get("/api/jobs/j/assets?limit=0")).status == 400


async def test_an_unfinished_job_says_when_it_will_be_done_where_that_is_known(house: House, monkeypatch):
    id = await house.submit(a_held_prompt(5))
    assert "estimate" not in await house.json(f"/api/jobs/{id}")
    engine = type(house.engine)
    monkeypatch.setattr(engine, "forecasts", lambda self: {JobId(id): Forecast(12.5, 9.0, 20.0, True)})
    wanted = {"seconds": 12.5, "low": 9.0, "high": 20.0, "known": True}
    assert (await house.json(f"/api/jobs/{id}"))["estimate"] == wanted
    listed = {j["id"]: j for j in (await house.json("/api/jobs?limit=5"))["jobs"]}
    assert listed[id]["estimate"]["low"] == 9.0
