"""Every recorded exchange with ComfyUI 0.3.64, again, against a real server: message by message."""

import pytest

from tests.contract.conftest import Wire
from tests.web.conftest import recorded

pytestmark = pytest.mark.server


def an_image(color: int) -> dict:
    return {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": color}}


def told(frames: list[dict], kinds: set[str]) -> list[dict]:
    """Frames of the types that were recorded; binary ones have none."""
    return [f for f in frames if f.get("type") in kinds]


def by_node(frames: list[dict]) -> dict[str, list[dict]]:
    """Frames in their order, for each node; nodes that need nothing of each other may run in any order."""
    sorted_: dict[str, list[dict]] = {}
    for frame in frames:
        if frame.get("type") != "progress_state":
            data = frame.get("metadata") or frame.get("data", {})
            sorted_.setdefault(str(data.get("node", data.get("node_id"))), []).append(frame)
            if "current_outputs" in data:  # a set of ComfyUI's
                data["current_outputs"].sort()
    states = [f for f in frames if f.get("type") == "progress_state"]
    return {**sorted_, "states": states}


async def replay(wire: Wire, name: str, forgetful: bool = False) -> None:
    """The steps of a file, in order, with a client that announces flags and one that does not.

    forgetful: what was made is forgotten before steps that are recorded to have found nothing of it.
    """
    exchange = recorded(name)
    listeners = {
        "client-a": await wire.listen("client-a", True),
        "client-b": await wire.listen("client-b", False),
    }
    for step in exchange["steps"]:
        body = step["request"]["json"]
        if forgetful and not cached(step):
            await wire.forget()
            for listener in listeners.values():
                await listener.until_quiet(0.1)
        mine = listeners[body["client_id"]]
        other = listeners["client-b" if body["client_id"] == "client-a" else "client-a"]
        status, answer = await wire.ask("POST", "/prompt", json=body)
        assert status == step["status"], (step["name"], answer)
        if "response" in step:
            wanted = {**step["response"], "number": answer["number"]}  # counted from another start
            assert wire.bound.difference(wanted, answer) is None
        job = answer["prompt_id"]
        frames = [*await mine.until("executing", node=None, prompt_id=job), *await mine.until_quiet()]
        wanted = step["ws_submitting_client"]
        kinds = {f.get("type") for f in wanted}
        assert wire.bound.difference(by_node(wanted), by_node(told(frames, kinds)), step["name"]) is None
        if step.get("ws_other_client") is not None:
            wanted = step["ws_other_client"]
            assert wire.bound.difference(wanted, await other.until_quiet(), f"{step['name']}, other") is None
        await after(wire, step, job)


def cached(step: dict) -> list[str]:
    """The nodes that a recorded step found done."""
    told_ = (f for f in step["ws_submitting_client"] if f.get("type") == "execution_cached")
    return next((f["data"]["nodes"] for f in told_), [])


async def after(wire: Wire, step: dict, job: str) -> None:
    """What the history says of a step."""
    _, history = await wire.ask("GET", f"/history/{job}")
    if "history_entry" in step:
        entry = next(iter(step["history_entry"].values()))
        ours = history[job]
        queued, kept = entry["prompt"], ours["prompt"]
        queued[0] = kept[0]
        queued[3] = {**queued[3], "create_time": kept[3]["create_time"]}
        assert wire.bound.difference(entry, ours, f"{step['name']}, history") is None
    for part in ("outputs", "meta", "status"):
        if f"history_{part}" in step:
            ours = history[job][part]
            if part == "status":
                ours = [ours["status_str"], ours["completed"], [name for name, _ in ours["messages"]]]
            wanted = step[f"history_{part}"]
            assert wire.bound.difference(wanted, ours, f"{step['name']}, {part}") is None


async def test_nodes_act_as_recorded_with_comfyuis_cache(classic: Wire):
    await replay(classic, "node_semantics")


async def test_nodes_act_as_recorded_with_our_cache(wire: Wire):
    """It remembers more than the last prompt: each step here starts with what the recorded one had."""
    await replay(wire, "node_semantics", forgetful=True)


@pytest.mark.parametrize("name", ["run_fresh_cached_partial", "run_error", "progress_and_previews"])
async def test_runs_are_told_as_recorded(wire: Wire, name: str):
    await replay(wire, name)


def facts(refusal: dict) -> dict:
    """What a client can act on: the words are every server's own."""

    def error(told: dict) -> tuple:
        extra = {k: v for k, v in told["extra_info"].items() if k not in ("exception_message", "traceback")}
        return told["type"], extra, sorted(told["extra_info"])

    nodes = {
        id: ([error(e) for e in found["errors"]], sorted(found["dependent_outputs"]), found["class_type"])
        for id, found in refusal["node_errors"].items()
    }
    return {"error": refusal.get("error", {}).get("type"), "nodes": nodes}


async def test_prompts_are_refused_as_recorded(wire: Wire):
    wrong = {}
    for case in recorded("prompt_validation")["cases"]:
        status, answer = await wire.ask("POST", "/prompt", json=case["json"])
        if (status, facts(answer)) != (case["status"], facts(case["response"])):
            wrong[case["name"]] = facts(answer)
    assert wrong.pop("static cycle")["error"] == "prompt_outputs_failed_validation"  # and names the cycle
    assert wrong == {}


async def test_what_the_front_end_sends_runs_and_is_kept_whole(wire: Wire):
    for body in recorded("frontend_prompt_bodies")["bodies"]:
        status, answer = await wire.ask("POST", "/api/prompt", json=body)
        assert status == 200
        assert (answer["number"] < 0) == body.get("front", False)
        _, _, prompt, extra, targets = (await wire.ended(answer["prompt_id"]))["prompt"]
        assert prompt == body["prompt"]
        assert extra.items() >= body["extra_data"].items()
        assert targets == ["3"]


async def test_an_interrupted_run_is_told_as_recorded(wire: Wire):
    """As recorded, but with a slow node in the place of the blurs, which take a minute on some machines."""
    exchange = recorded("interrupt")
    mine = await wire.listen("client-a", flags=False)
    slow = {
        "class_type": "ProbeSlow",
        "inputs": {"image": ["1", 0], "steps": 200, "delay": 0.1, "preview": False},
    }
    prompt = {**exchange["steps"][0]["request"]["json"]["prompt"], "1": an_image(3), "2": slow}
    _, first = await wire.ask("POST", "/prompt", json={"prompt": prompt, "client_id": "client-a"})
    short = {"1": an_image(77), "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}}
    _, second = await wire.ask("POST", "/prompt", json={"prompt": short, "client_id": "client-a"})
    frames = await mine.until("executing", node="2", prompt_id=first["prompt_id"])
    assert await wire.ask("POST", "/interrupt", json={"prompt_id": "not-the-running-one"}) == (200, "")
    assert await wire.ask("POST", "/interrupt", json={"prompt_id": first["prompt_id"]}) == (200, "")
    frames += await mine.until("executing", node=None, prompt_id=first["prompt_id"])
    told = frames[-3]
    assert (told["type"], told["data"]["node_id"]) == ("execution_interrupted", "2")
    assert (told["data"]["node_type"], told["data"]["executed"]) == ("ProbeSlow", ["1"])
    assert [f["type"] for f in frames[-2:]] == ["status", "executing"]
    entry = (await wire.ask("GET", f"/history/{first['prompt_id']}"))[1][first["prompt_id"]]
    assert [name for name, _ in entry["status"]["messages"]] == [
        name for name, _ in exchange["history_entry"]["<PROMPT_6>"]["status"]["messages"]
    ]
    assert (entry["status"]["status_str"], entry["status"]["completed"]) == ("error", False)
    assert (await wire.ended(second["prompt_id"]))["status"]["completed"] is True
