import pytest

from tests.web.conftest import House, a_held_prompt, a_prompt, recorded


async def test_history_pages_as_recorded(house: House):
    for n in range(6):
        await house.run(a_prompt(n), prompt_id=f"h{n}")
    for case in recorded("history_paging")["cases"]:
        reply = await house.client.request(case.get("method", "GET"), case["path"], json=case.get("json"))
        assert reply.status == case.get("status", 200), case
        if "body" in case:
            assert await reply.text() == case["body"]
        else:
            assert list(await reply.json()) == case["keys_in_order"], case


async def test_the_queue_is_numbered_and_changed_as_recorded(house: House):
    running = await house.submit(a_held_prompt())
    ids, exchange = [], recorded("queue_ops")
    for n, case in enumerate(exchange["submissions"]):
        body = {"prompt": a_held_prompt(100 + n), **case["extra_request_keys"]}
        reply = await house.client.post("/prompt", json=body)
        answer = await reply.json()
        ids.append(answer["prompt_id"])
        wanted = case["response"]["number"]
        shift = 44 - 1 if abs(wanted) > 10 else 0  # the recording's counter stood at 44, ours at 1
        assert answer["number"] == (wanted - shift if wanted > 0 else wanted + shift), case
        assert answer["node_errors"] == {}
    assert ids[4] == "fixed-id"

    queue = await house.json("/queue")
    assert [item[1] for item in queue["queue_running"]] == [running]
    in_order = [(-3, ids[1]), (0.5, ids[2]), (2, ids[0]), (4, ids[4]), (7, ids[3])]  # ours is sorted
    assert [(item[0], item[1]) for item in queue["queue_pending"]] == in_order
    assert queue["queue_pending"][0][2] == a_held_prompt(101)
    assert queue["queue_pending"][0][4] == ["1"]

    assert (await house.client.post("/queue", json={"delete": [ids[0], "absent"]})).status == 200
    assert await house.json("/prompt") == {"exec_info": {"queue_remaining": 5}}
    reply = await house.client.post("/api/queue", json={"clear": True})
    assert (reply.status, await reply.text()) == (200, "")
    assert await house.json("/prompt") == {"exec_info": {"queue_remaining": 1}}
    house.gate.set()
    await house.ended(running)


async def test_an_interrupted_job_is_an_error_in_the_history(house: House):
    running, waiting = await house.submit(a_held_prompt(1)), await house.submit(a_held_prompt(2))
    assert (await house.client.post("/interrupt", json={"prompt_id": waiting})).status == 200
    assert (await house.client.post("/interrupt", json={"prompt_id": running})).status == 200
    entry = await house.ended(running)
    assert entry["status"]["status_str"] == "error"
    assert entry["status"]["completed"] is False
    assert [m[0] for m in entry["status"]["messages"]] == [
        "execution_start",
        "execution_cached",
        "execution_interrupted",
    ]
    house.gate.set()
    assert (await house.ended(waiting))["status"]["status_str"] == "success"


async def test_an_interrupt_without_a_body_stops_what_runs(house: House):
    running = await house.submit(a_held_prompt())
    assert (await house.client.post("/interrupt")).status == 200
    assert (await house.ended(running))["status"]["completed"] is False


async def test_an_interrupt_of_an_idle_server_harms_no_later_prompt(house: House):
    assert (await house.client.post("/interrupt")).status == 200
    entry = await house.ended(await house.submit(a_prompt()))
    assert entry["status"]["completed"] is True


async def test_a_history_entry_has_comfyuis_shape(house: House):
    job = await house.run(a_prompt(4), client_id="me", extra_data={"api_key_comfy_org": "secret", "note": 1})
    entry = (await house.json(f"/history/{job}"))[job]
    number, id, prompt, extra, outputs = entry["prompt"]
    assert (number, id, outputs) == (1, job, ["2"])
    assert prompt == a_prompt(4)
    assert extra["client_id"] == "me"
    assert extra["note"] == 1
    assert "api_key_comfy_org" not in extra
    assert entry["outputs"] == {"2": {"shown": [5]}}
    assert entry["meta"] == {
        "2": {"node_id": "2", "display_node": "2", "parent_node": None, "real_node_id": "2"}
    }
    assert entry["status"]["status_str"] == "success"
    assert all(isinstance(data["timestamp"], int) for _, data in entry["status"]["messages"])


async def test_secrets_are_not_shown_while_a_job_waits(house: House):
    await house.submit(a_held_prompt(1), extra_data={"auth_token_comfy_org": "secret"})
    await house.submit(a_held_prompt(2), extra_data={"auth_token_comfy_org": "secret"})
    assert "secret" not in await house.text("/queue")
    assert "secret" not in await house.text("/api/jobs")


@pytest.mark.parametrize("path", ["/history?max_items=x", "/history?offset=1.5"])
async def test_a_page_that_is_no_number_is_400(house: House, path: str):
    assert (await house.client.get(path)).status == 400


@pytest.mark.parametrize("path", ["/queue", "/history", "/free", "/prompt"])
@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[1]"])
async def test_a_body_that_is_no_object_is_400(house: House, path: str, body: bytes):
    assert (await house.client.post(path, data=body)).status == 400


async def test_a_body_counts_whatever_its_type(house: House):
    reply = await house.client.post(
        "/free", data=b'{"free_memory": true}', headers={"Content-Type": "text/plain"}
    )
    assert (reply.status, await reply.text()) == (200, "")
