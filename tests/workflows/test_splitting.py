"""One image on two workers: guidance's halves side by side, the same picture, and no harm where one dies."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.build import a_prompt
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
    job = two_workers.submit(a_prompt(seed=2, steps=200))
    lead = None
    while lead is None:  # the one that runs the op
        devices = two_workers.get("/tessera/pool")["devices"]
        lead = next((d["id"] for d in devices if d["id"] != "host" and d["running"]), None)
    victims = [p for p in two_workers.workers() if p.is_running()]
    names = sorted(d["id"] for d in devices if d["id"] != "host")
    helper = victims[1 - names.index(lead)]
    os.kill(helper.pid, signal.SIGKILL)
    assert succeeded(two_workers.finished(job))
