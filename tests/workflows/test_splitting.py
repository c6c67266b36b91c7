"""One image on two workers: guidance's halves side by side, the same picture, and no harm where one dies."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from tests.build import a_node, a_prompt
from tests.control_files import control_tensors
from tests.serving import Server, succeeded
from tests.workflows.conftest import a_base

pytestmark = pytest.mark.server


def tables(server: Server) -> dict[str, dict]:
    """Of the workers, by device."""
    return {d["id"]: d["table"] for d in server.get("/tessera/pool")["devices"] if d["id"] != "host"}


def forwards(server: Server) -> int:
    return sum(table["forwards"] for table in tables(server).values())


def image(server: Server, entry) -> np.ndarray:
    assert succeeded(entry), entry["status"]
    return np.asarray(Image.open(server.outputs(entry)[0]).convert("RGB"), dtype=np.int16)


def both_hold_the_model(server: Server) -> None:
    """Have jobs enough that the second worker loads the denoiser too."""
    for batch in range(10):
        held = [
            {r["component"].split("@")[0] for r in table["resident"]} for table in tables(server).values()
        ]
        if all("denoiser" in kinds for kinds in held):
            return
        for job in [server.submit(a_prompt(seed=100 + 6 * batch + i, steps=20)) for i in range(6)]:
            server.finished(job)
    raise AssertionError(held)


def decisions(server: Server) -> set[str]:
    return {d["kind"] for d in server.get("/tessera/pool")["decisions"]}


def reasons(server: Server) -> str:
    return " ".join(d["reason"] for d in server.get("/tessera/pool")["decisions"])


def controlled(**options):
    """A run without guidance, so that nothing but its ControlNet can be dealt out; large enough to be worth
    it.
    """
    prompt = a_prompt(size=256, more={"cfg": 1.0, "positive": ["12", 0]}, **options)
    applied = {"positive": ["6", 0], "negative": ["7", 0], "control_net": ["10", 0], "image": ["11", 0]}
    prompt["10"] = a_node("ControlNetLoader", control_net_name="control.safetensors")
    prompt["11"] = a_node("LoadImage", image="hint.png")
    times = {"strength": 0.7, "start_percent": 0.0, "end_percent": 1.0}
    prompt["12"] = a_node("ControlNetApplyAdvanced", **applied, **times)
    return prompt


def lead_and_helper(server: Server) -> tuple[str, str]:
    """The device that runs the op, and the other one, once it runs."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        devices = [d for d in server.get("/tessera/pool")["devices"] if d["id"] != "host"]
        lead = next((d["id"] for d in devices if d["running"]), None)
        if lead is not None:
            return lead, next(d["id"] for d in devices if d["id"] != lead)
    raise AssertionError("nothing runs on any device")


def kill(server: Server, device: str) -> None:
    victims = [p for p in server.workers() if p.is_running()]
    names = sorted(d["id"] for d in server.get("/tessera/pool")["devices"] if d["id"] != "host")
    os.kill(victims[names.index(device)].pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Iterator[Server]:
    base = a_base(tmp_path_factory.mktemp("two-workers"), checkpoint)
    with Server(base, ("--cpu", "--force-fp32", "--workers", "2")) as server:
        yield server


def test_an_idle_worker_computes_half_of_anothers_passes_and_the_picture_is_the_same(
    two_workers: Server, server: Server
):
    both_hold_the_model(two_workers)
    split = image(two_workers, two_workers.run(a_prompt(seed=1, steps=20)))
    assert "split" in decisions(two_workers)
    whole = image(server, server.run(a_prompt(seed=1, steps=20)))  # of the one worker there
    assert np.abs(split - whole).max() <= 1  # kernels depend on the batch size in the last bits


def test_a_run_goes_on_where_its_helper_dies(two_workers: Server):
    both_hold_the_model(two_workers)
    job = two_workers.submit(a_prompt(seed=2, steps=60))
    kill(two_workers, lead_and_helper(two_workers)[1])
    assert succeeded(two_workers.finished(job))


def with_control(server: Server, checkpoint: Path) -> Server:
    """What `controlled` asks for is there."""
    folder = server.base / "models" / "controlnet"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(control_tensors(checkpoint), folder / "control.safetensors")
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(server.base / "input" / "hint.png")
    return server


def test_an_idle_worker_asks_the_controlnet_of_anothers_run_and_the_picture_is_the_same(
    two_workers: Server, server: Server, checkpoint: Path
):
    one, two = with_control(server, checkpoint), with_control(two_workers, checkpoint)
    assert succeeded(two.run(controlled(seed=100)))  # what a ControlNet is like is known once it was loaded
    aside = image(two, two.run(controlled(seed=1, steps=6)))
    assert "it asks them while a pass begins" in reasons(two)
    home = image(one, one.run(controlled(seed=1, steps=6)))
    plain = image(one, one.run(a_prompt(size=256, seed=1, steps=6, more={"cfg": 1.0})))
    assert np.abs(aside - home).max() <= 1
    assert np.abs(home - plain).max() > 5


def test_a_run_goes_on_where_who_asks_its_controlnet_dies(own_server: Server, checkpoint: Path):
    own_server.flags = ("--cpu", "--force-fp32", "--workers", "2")
    server = with_control(own_server.start(), checkpoint)
    assert succeeded(server.run(controlled(seed=100)))
    job = server.submit(controlled(seed=2, steps=30))
    helper = lead_and_helper(server)[1]
    end = time.monotonic() + 120
    while server.get("/tessera/pool")["decisions"][-1]["kind"] != "split":
        assert time.monotonic() < end, "nothing was split"
    kill(server, helper)
    assert succeeded(server.finished(job))
