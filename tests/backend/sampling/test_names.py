import subprocess
import sys

from backend.sampling.names import SAMPLER_NAMES, SCHEDULER_NAMES
from backend.sampling.samplers import SAMPLERS
from backend.sampling.sigmas import SCHEDULES
from tests.backend.sampling.shared import shared_json


def test_every_name_has_its_function_in_menu_order():
    assert tuple(SAMPLERS) == SAMPLER_NAMES
    assert tuple(SCHEDULES) == SCHEDULER_NAMES


def test_the_names_are_those_that_ksampler_offers():
    inputs = shared_json("contract/nodes.json")["nodes"]["KSampler"]["inputs"]["required"]
    offered = {i["name"]: tuple(i["options"]) for i in inputs if i["name"] in ("sampler_name", "scheduler")}
    assert offered == {"sampler_name": SAMPLER_NAMES, "scheduler": SCHEDULER_NAMES}


def test_listing_the_names_loads_no_torch():
    code = "import sys, backend.sampling.names; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
