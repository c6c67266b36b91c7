"""The workflows of `further.py` through the real server: each result must be ComfyUI's."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.parity.further import prompts
from tests.parity.record import LIMIT, RECORDED, relative, run
from tests.parity.reference import ABSENT, CACHE, find_reference
from tests.serving import Server

MODELS = {"sd15", "lora_sd15", "lora_sd15_b", "controlnet_sd15"}
RESULTS = load_file(RECORDED)

pytestmark = [pytest.mark.parity, pytest.mark.server]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    reference = find_reference()
    if reference is None:
        pytest.skip(ABSENT)
    reference.prepare(CACHE / "base", MODELS)
    folder = tmp_path_factory.mktemp("further")
    for shared in ("models", "input"):
        (folder / shared).symlink_to(Path(CACHE / "base" / shared))
    with Server(folder, ("--cpu", "--force-fp32", "--workers", "1")) as server:
        yield server


def test_every_workflow_is_recorded():
    assert set(RESULTS) == set(prompts())


@pytest.mark.parametrize("name", sorted(RESULTS))
def test_a_workflow_gives_what_comfyui_gives(name: str, server: Server):
    assert relative(run(server.url, prompts()[name]), RESULTS[name]) <= LIMIT
