import asyncio
import json
import logging
import struct
from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientWebSocketResponse, WSMsgType

from backend.engine import events as ev
from backend.types import ClientId, JobId, NodeId
from tests.web.conftest import House, a_failing_prompt, a_held_prompt, a_prompt, recorded
from web.services import SERVICES
from web.socket import LONGEST_HEARD, Sockets

FLAGS = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}


async def connect(house: House, sid: str | None = None, flags: bool = False) -> ClientWebSocketResponse:
    """A socket that has read its first frame, and the answer to its flags."""
    socket = await house.client.ws_connect("/ws" if sid is None else f"/ws?clientId={sid}")
    first = await socket.receive_json()
    assert first["type"] == "status"
    assert first["data"]["sid"]
    if flags:
        await socket.send_json(FLAGS)
        while (await socket.receive_json())["type"] != "feature_flags":
            pass
    return socket


async def frames(socket: ClientWebSocketResponse, quiet: float = 0.2) -> AsyncIterator[dict | bytes]:
    """What comes until nothing has come for a moment."""
    while True:
        try:
            message = await socket.receive(timeout=quiet)
        except TimeoutError:
            return
        if message.type == WSMsgType.TEXT:
            yield json.loads(message.data)
        elif message.type == WSMsgType.BINARY:
            yield message.data
        else:
            return


def sockets(house: House) -> Sockets:
    return house.client.app[SERVICES].sockets


def emit(house: House, *events: ev.Event) -> None:
    for event in events:
        sockets(house).on_event(event)


def a_preview(client: str | None = "me", image: bytes = b"\xff\xd8\xff") -> ev.PreviewImage:
    return ev.PreviewImage(JobId("j"), client and ClientId(client), NodeId("3"), image)


def a_step(client: str | None = "me", value: int = 1) -> tuple[ev.StateChanged, ev.StepProgress]:
    job, sid, node = JobId("j"), client and ClientId(client), NodeId("3")
    state = ev.StateChanged(job, sid, (ev.NodeProgress(node, "running", value, 4),))
    return state, ev.StepProgress(job, sid, node, value, 4)


def kinds(received: list[dict | bytes]) -> list[str | int]:
    return [struct.unpack_from(">I", f)[0] if isinstance(f, bytes) else f["type"] for f in received]


def summary(frame: dict) -> object:
    """A `progress_state` as node -> state; another frame as its type and node."""
    if frame["type"] == "progress_state":
        return {node: state["state"] for node, state in frame["data"]["nodes"].items()}
    return frame["type"], frame["data"]["node"]


async def test_greetings_are_as_recorded(house: House):
    for case in recorded("ws_connect")["cases"]:
        socket = await house.client.ws_connect(case["connect"])
        if case["send_first"]:
            await socket.send_json(case["send_first"])
        received = [f async for f in frames(socket)]
        if "clientId" not in case["connect"]:
            sid = received[0]["data"]["sid"]
            assert len(sid) == 32
            assert int(sid, 16) >= 0
            case["receive"][0]["data"]["sid"] = sid
        assert received == case["receive"]
        await socket.close()


async def test_only_the_first_valid_frame_counts(house: House):
    socket = await connect(house, "me")
    await socket.send_str("{ no json")
    await socket.send_json(FLAGS)
    await socket.send_json(FLAGS)
    assert kinds([f async for f in frames(socket)]) == ["feature_flags"]
    late = await connect(house, "late")
    await late.send_json({"type": "hello"})
    await late.send_json(FLAGS)
    assert [f async for f in frames(late)] == []


async def test_a_run_is_told_in_comfyuis_order(house: House):
    mine, other = await connect(house, "me"), await connect(house, "other")
    job = await house.submit(a_prompt(), client_id="me")
    received = [f async for f in frames(mine)]
    assert [f["type"] for f in received if f["type"] != "progress_state"] == [
        *("status", "status", "execution_start", "execution_cached"),
        *("executing", "executing", "executed", "execution_success", "status", "executing"),
    ]
    assert [summary(f) for f in received if f["type"] in ("progress_state", "executing", "executed")] == [
        {"1": "running"},
        ("executing", "1"),
        {"1": "finished"},
        {"1": "finished", "2": "running"},
        ("executing", "2"),
        ("executed", "2"),
        {"1": "finished", "2": "finished"},
        ("executing", None),
    ]
    assert received[-1] == {"type": "executing", "data": {"node": None, "prompt_id": job}}
    assert [
        f["data"]["status"]["exec_info"]["queue_remaining"] for f in received if f["type"] == "status"
    ] == [1, 1, 0]
    shown = next(f for f in received if f["type"] == "executed")
    assert shown["data"] == {"node": "2", "display_node": "2", "output": {"shown": [2]}, "prompt_id": job}
    state = next(f for f in received if f["type"] == "progress_state")
    assert state["data"] == {
        "prompt_id": job,
        "nodes": {
            "1": {
                **{"value": 0.0, "max": 1.0, "state": "running", "node_id": "1", "prompt_id": job},
                **{"display_node_id": "1", "parent_node_id": None, "real_node_id": "1"},
            }
        },
    }
    assert set(kinds([f async for f in frames(other)])) == {"status"}


async def test_the_history_is_there_when_the_end_is_told(house: House):
    socket = await connect(house, "me")
    job = await house.submit(a_prompt(), client_id="me")
    async for frame in frames(socket, quiet=5):
        if frame["type"] == "executing" and frame["data"]["node"] is None:
            break
    assert list(await house.json(f"/history/{job}")) == [job]


async def test_a_failure_is_told_with_its_facts(house: House):
    socket = await connect(house, "me")
    await house.run(a_failing_prompt(), client_id="me")
    received = [f async for f in frames(socket)]
    error = next(f["data"] for f in received if f["type"] == "execution_error")
    assert set(error) == {
        *("prompt_id", "node_id", "node_type", "executed", "exception_message", "exception_type"),
        *("traceback", "current_inputs", "current_outputs", "timestamp"),
    }
    assert (error["node_id"], error["node_type"], error["exception_type"]) == ("1", "Fail", "ValueError")
    assert kinds(received)[-3:] == ["execution_error", "status", "executing"]


async def test_an_interrupt_of_a_prompt_without_client_is_told_to_everybody(house: House):
    sockets_ = [await connect(house, "a"), await connect(house, "b")]
    await house.submit(a_held_prompt())
    await house.client.post("/interrupt")
    for socket in sockets_:
        told = kinds([f async for f in frames(socket)])
        assert "execution_interrupted" in told
        assert "execution_start" not in told
        assert "executing" not in told


async def test_a_reconnecting_client_learns_what_runs_and_how_far_it_is(house: House):
    socket = await connect(house, "me")
    job = await house.submit(a_held_prompt(), client_id="me")
    assert "executing" in kinds([f async for f in frames(socket)])
    await socket.close()
    again, other = await house.client.ws_connect("/ws?clientId=me"), await connect(house, "other")
    first, node, state = [f async for f in frames(again)]
    assert first["data"] == {"status": {"exec_info": {"queue_remaining": 1}}, "sid": "me"}
    assert node == {"type": "executing", "data": {"node": "1"}}
    assert (state["data"]["prompt_id"], summary(state)) == (job, {"1": "running"})
    assert [f async for f in frames(other)] == []


async def test_a_client_that_comes_back_is_told_of_each_of_its_jobs(house: House):
    for job in ("j", "k"):
        nodes = (ev.NodeProgress(NodeId("3"), "running", 2, 4),)
        emit(house, ev.StateChanged(JobId(job), ClientId("me"), nodes))
    socket = await connect(house, "me")
    assert [f["data"]["prompt_id"] for f in [f async for f in frames(socket)]] == ["j", "k"]
    emit(house, ev.NodeExecuting(JobId("j"), ClientId("me"), None))
    again = await connect(house, "me")
    assert [f["data"]["prompt_id"] for f in [f async for f in frames(again)]] == ["k"]


async def test_what_a_client_sends_is_bounded(house: House):
    socket = await connect(house, "me")
    await socket.send_str("[" * 100_000)  # nested deeper than can be read: ignored
    await socket.send_json(FLAGS)
    assert kinds([f async for f in frames(socket)]) == ["feature_flags"]
    await socket.send_str("x" * (LONGEST_HEARD + 1))
    closing = await socket.receive(timeout=5)
    assert (closing.type, closing.data) == (WSMsgType.CLOSE, 1009)


async def test_a_second_socket_takes_over_and_outlives_the_first(house: House):
    old = await connect(house, "me")
    new = await connect(house, "me")
    emit(house, *a_step())
    assert kinds([f async for f in frames(new)]) == ["progress_state", "progress"]
    assert [f async for f in frames(old)] == []
    await old.close()
    emit(house, *a_step())
    assert kinds([f async for f in frames(new)]) == ["progress_state", "progress"]


@pytest.mark.parametrize("preview_first", [True, False])
async def test_each_client_gets_one_form_of_a_preview_in_its_place(house: House, preview_first: bool):
    modern, plain = await connect(house, "modern", flags=True), await connect(house, "plain")
    state, progress = a_step(client=None)
    preview = a_preview(client=None)
    emit(house, *((preview, state, progress) if preview_first else (state, preview, progress)))
    got_modern, got_plain = [f async for f in frames(modern)], [f async for f in frames(plain)]
    assert kinds(got_modern) == ["progress_state", 4, "progress"]
    assert kinds(got_plain) == ["progress_state", "progress", 1]
    assert got_plain[2] == struct.pack(">II", 1, 1) + preview.image
    length = struct.unpack_from(">I", got_modern[1], 4)[0]
    assert json.loads(got_modern[1][8 : 8 + length]) == {
        **{"node_id": "3", "prompt_id": "j", "display_node_id": "3", "parent_node_id": None},
        **{"real_node_id": "3", "image_type": "image/jpeg"},
    }
    assert got_modern[1][8 + length :] == preview.image


async def test_a_preview_after_its_progress_is_not_lost(house: House):
    socket = await connect(house, "me")
    emit(house, *a_step(), a_preview())
    assert kinds([f async for f in frames(socket)]) == ["progress_state", "progress", 1]
    emit(house, a_preview(), ev.NodeExecuting(JobId("j"), ClientId("me"), None))
    assert kinds([f async for f in frames(socket)]) == [1, "executing"]


async def test_the_last_preview_comes_before_the_nodes_end(house: House):
    socket = await connect(house, "me")
    ended = ev.NodeProgress(NodeId("3"), "finished", 4, 4)
    emit(house, *a_step(), a_preview(), ev.StateChanged(JobId("j"), ClientId("me"), (ended,)))
    assert kinds([f async for f in frames(socket)]) == ["progress_state", "progress", 1, "progress_state"]


async def test_previews_go_to_nobody_else(house: House):
    other = await connect(house, "other")
    emit(house, *a_step("absent"), a_preview("absent"))
    assert [f async for f in frames(other)] == []


async def test_texts_and_events_of_packs_are_passed_on(house: House):
    socket = await connect(house, "me")
    sockets(house).send_text("hello", NodeId("12:5"), ClientId("me"))
    sockets(house).send("pack.event", {"x": 1})
    received = [f async for f in frames(socket)]
    assert received == [
        struct.pack(">II", 3, 4) + b"12:5hello",
        {"type": "pack.event", "data": {"x": 1}},
    ]


async def test_logs_go_to_those_who_asked(house: House):
    reader, other = await connect(house, "reader"), await connect(house, "other")
    body = {"clientId": "reader", "enabled": True}
    assert (await house.client.patch("/internal/logs/subscribe", json=body)).status == 200
    logger = logging.getLogger("tests.web.logs")
    logger.addHandler(house.logs)
    try:
        await asyncio.to_thread(logger.warning, "a line")
        assert [f["data"]["entries"][0]["m"] for f in [f async for f in frames(reader)]] == ["a line\n"]
        assert [f async for f in frames(other)] == []
        await house.client.patch("/internal/logs/subscribe", json={**body, "enabled": False})
        logger.warning("another")
        assert [f async for f in frames(reader)] == []
    finally:
        logger.removeHandler(house.logs)


async def test_the_end_of_a_job_leaves_at_once_with_all_that_waited_for_company(house: House):
    socket = await connect(house, "me")
    job, me = JobId("j"), ClientId("me")
    waiting = sockets(house)._clients[me].waiting
    emit(house, ev.JobStarted(job, me, 1), ev.QueueChanged(1), ev.JobSucceeded(job, me, 2))
    assert len(waiting) == 3
    emit(house, ev.NodeExecuting(job, me, None))
    assert not waiting
    told = ["execution_start", "status", "execution_success", "executing"]
    assert kinds([f async for f in frames(socket)]) == told


async def test_how_jobs_of_others_go_waits_for_one_of_ones_own_but_not_for_long(house: House):
    socket = await connect(house, "me")
    waiting = sockets(house)._clients[ClientId("me")].waiting
    emit(house, ev.QueueChanged(1), ev.QueueChanged(2))
    assert len(waiting) == 2
    assert kinds([f async for f in frames(socket)]) == ["status", "status"]
    emit(house, ev.QueueChanged(1), ev.NodeExecuting(JobId("j"), ClientId("me"), None))
    assert not waiting
    assert kinds([f async for f in frames(socket)]) == ["status", "executing"]


async def test_a_client_that_does_not_read_delays_nobody(house: House):
    deaf = await connect(house, "deaf")
    socket = await connect(house, "me")
    deaf._reader._protocol.transport.pause_reading()
    image = bytes(100_000)
    for n in range(200):
        emit(house, *a_step(None, n), a_preview(None, image))
        await asyncio.sleep(0)
    received = [f async for f in frames(socket)]
    assert received[-1] == struct.pack(">II", 1, 1) + image
    waiting = sockets(house)._clients[ClientId("deaf")]
    assert waiting.waiting_bytes < 100 * len(image)
    deaf._reader._protocol.transport.abort()  # or the client waits ten seconds for a goodbye


async def test_every_picture_that_a_node_sends_arrives_in_order(house: House):
    socket = await connect(house, "me")
    images = [bytes([n]) * 30_000 for n in range(80)]
    for n, image in enumerate(images):
        preview = ev.PreviewImage(JobId("j"), ClientId("me"), NodeId("3"), image, "PNG")
        emit(house, preview, *a_step("me", n))
    received = [f async for f in frames(socket)]
    assert [f for f in received if isinstance(f, bytes)] == [struct.pack(">II", 1, 2) + i for i in images]
