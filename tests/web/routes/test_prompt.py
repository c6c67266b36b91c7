import pytest

from tests.web.conftest import House, a_held_prompt, a_prompt


async def post(house: House, **body: object) -> tuple[int, dict]:
    reply = await house.client.post("/api/prompt", json=body)
    return reply.status, await reply.json()


async def test_a_prompt_is_answered_with_its_id_and_number(house: House):
    assert await post(house, prompt=a_prompt(), prompt_id=7) == (
        200,
        {"prompt_id": "7", "number": 1, "node_errors": {}},
    )


async def test_no_prompt_is_told_as_comfyui_tells_it(house: House):
    status, answer = await post(house)
    assert status == 400
    assert answer["node_errors"] == {}
    assert answer["error"] == {
        "type": "no_prompt",
        "message": "No prompt provided",
        "details": "No prompt provided",
        "extra_info": {},
    }


async def test_errors_of_nodes_have_comfyuis_shape(house: House):
    status, answer = await post(house, prompt={"1": {"class_type": "Show", "inputs": {}}})
    assert status == 400
    assert answer["error"]["type"] == "prompt_outputs_failed_validation"
    assert set(answer["error"]) == {"type", "message", "details", "extra_info"}
    found = answer["node_errors"]["1"]
    assert (found["class_type"], found["dependent_outputs"]) == ("Show", ["1"])
    assert found["errors"][0]["type"] == "required_input_missing"
    assert found["errors"][0]["extra_info"]["input_name"] == "value"


async def test_a_prompt_with_one_bad_output_runs_the_others(house: House):
    prompt = {**a_prompt(), "3": {"class_type": "Show", "inputs": {}}}
    status, answer = await post(house, prompt=prompt)
    assert status == 200
    assert list(answer["node_errors"]) == ["3"]
    assert list((await house.ended(answer["prompt_id"]))["outputs"]) == ["2"]


async def test_only_the_chosen_outputs_run(house: House):
    prompt = {**a_prompt(), "3": {"class_type": "Show", "inputs": {"value": ["1", 0]}}}
    _, answer = await post(house, prompt=prompt, partial_execution_targets=["3"])
    assert list((await house.ended(answer["prompt_id"]))["outputs"]) == ["3"]
    status, answer = await post(house, prompt=prompt, partial_execution_targets=[])
    assert (status, answer["error"]["type"]) == (400, "prompt_no_outputs")


@pytest.mark.parametrize(
    "more",
    [
        {"number": "first"},
        {"number": None},
        {"number": "nan"},
        {"number": [1]},
        {"extra_data": [1]},
        {"partial_execution_targets": "2"},
    ],
)
async def test_what_is_wrong_beside_the_prompt_is_named(house: House, more: dict):
    status, answer = await post(house, prompt=a_prompt(), **more)
    assert status == 400
    assert next(iter(more)) in answer["error"]["message"]


@pytest.mark.parametrize("prompt", [None, 1, "x", [], [1], {"1": 2}, {"1": {"class_type": 3}}])
async def test_a_prompt_of_another_shape_is_refused(house: House, prompt: object):
    status, answer = await post(house, prompt=prompt)
    assert status == 400
    assert answer["error"]["type"]
    assert (await post(house, prompt=a_prompt()))[0] == 200


async def test_a_full_queue_says_when_to_come_back(open_house):
    house = await open_house(max_queue=1)
    await house.submit(a_held_prompt())
    reply = await house.client.post("/prompt", json={"prompt": a_prompt()})
    assert reply.status == 429
    assert int(reply.headers["Retry-After"]) >= 1
    error = (await reply.json())["error"]
    assert error["type"] == "queue_full"
    assert "--max-queue" in error["details"]


async def test_a_request_without_a_prompt_counts_too(house: House):
    first = await (await house.client.post("/prompt", json={"prompt": a_prompt()})).json()
    for body in ("{}", "[]", '"text"'):
        refusal = await house.client.post("/prompt", data=body)
        assert (refusal.status, (await refusal.json())["error"]["type"]) == (400, "no_prompt")
    second = await (await house.client.post("/prompt", json={"prompt": a_prompt()})).json()
    assert second["number"] - first["number"] == 4
