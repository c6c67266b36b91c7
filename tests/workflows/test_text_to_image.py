"""A prompt becomes an image: the whole main path, on random weights."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.build import a_prompt, a_tiny_prompt
from tests.serving import Server, succeeded

pytestmark = pytest.mark.server


def pixels(path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"), dtype=np.int16)


def test_a_text_prompt_becomes_an_image_of_the_asked_size(server: Server):
    entry = server.run(a_prompt(size=128, prefix="fox"))
    assert succeeded(entry), entry["status"]
    (path,) = server.outputs(entry)
    assert path.name == "fox_00001_.png"
    assert pixels(path).shape == (128, 128, 3)
    assert pixels(path).std() > 1  # something, not a blank


def test_an_image_carries_its_prompt(server: Server):
    prompt = a_prompt(seed=77, prefix="metadata")
    (path,) = server.outputs(server.run(prompt))
    assert json.loads(Image.open(path).text["prompt"]) == prompt


def test_a_seed_gives_the_same_image_again_and_another_seed_another(server: Server):
    first, again, other = (
        pixels(server.outputs(server.run(a_prompt(seed=seed, prefix=prefix)))[0])
        for seed, prefix in ((5, "a"), (5, "b"), (6, "c"))
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_repeated_prompt_is_answered_from_what_is_known(server: Server):
    prompt = a_prompt(seed=123, prefix="cached")
    first = server.run(prompt)
    forwards = server.get("/tessera/pool")["devices"]
    again = server.run(prompt)
    assert again["outputs"] == first["outputs"]
    cached = next(data["nodes"] for event, data in again["status"]["messages"] if event == "execution_cached")
    assert set(cached) == set(prompt)
    assert counters(server.get("/tessera/pool")["devices"]) == counters(forwards)


def test_a_switch_hands_on_a_model_and_what_leads_to_the_other_side_does_not_run(server: Server):
    prompt = a_prompt(seed=31, steps=2, prefix="switch")
    sampler = next(node for node in prompt.values() if node["class_type"] == "KSampler")
    switch = {"switch": False, "on_false": sampler["inputs"]["model"], "on_true": ["blank", 0]}
    blank = {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}}
    sampler["inputs"]["model"] = ["switch", 0]
    entry = server.run(
        {**prompt, "blank": blank, "switch": {"class_type": "ComfySwitchNode", "inputs": switch}}
    )
    assert succeeded(entry), entry["status"]
    plain = server.run(a_prompt(seed=31, steps=2, prefix="plain"))
    assert np.array_equal(*(pixels(server.outputs(each)[0]) for each in (entry, plain)))
    assert "blank" not in str(entry["status"]["messages"])


def counters(devices) -> list[int]:
    return [device["table"]["forwards"] for device in devices]


def test_nodes_without_a_model_run_without_a_worker(server: Server):
    (path,) = server.outputs(server.run(a_tiny_prompt(color=0x102030)))
    assert (pixels(path) == [255 - 0x10, 255 - 0x20, 255 - 0x30]).all()
