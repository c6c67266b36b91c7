"""The workflows of `further.py` through the real server: each result must be ComfyUI's."""

import pytest
from safetensors.numpy import load_file

from tests.parity.further import prompts
from tests.parity.harness import Harness
from tests.parity.record import LIMIT, RECORDED, relative, run
from tests.parity.sample import sampled

RESULTS = load_file(RECORDED)

# the first one makes the model files that are not there yet
pytestmark = [pytest.mark.parity, pytest.mark.server, pytest.mark.timeout(900)]


def test_every_workflow_is_recorded():
    assert set(RESULTS) == set(prompts())


@pytest.mark.parametrize("name", sampled(sorted(RESULTS), name=str, kind=lambda name: name.partition("-")[0]))
def test_a_workflow_gives_what_comfyui_gives(name: str, harness: Harness):
    assert relative(run(harness.server.url, prompts()[name]), RESULTS[name]) <= LIMIT
