"""Every reference workflow through the real server: the result must be ComfyUI's within the case's limits.

All of them take a quarter of an hour: some of each kind run each time, the others are marked slow.
"""

import pytest

from tests.parity import later
from tests.parity.harness import Harness
from tests.parity.reference import ABSENT, Case, find_reference
from tests.parity.sample import sampled

REFERENCE = find_reference()
CASES = list(REFERENCE.cases.values()) if REFERENCE else []

# the first one makes the model files that are not there yet
pytestmark = [pytest.mark.parity, pytest.mark.server, pytest.mark.timeout(900)]


@pytest.mark.parametrize("case", sampled(CASES, name=lambda case: case.name, kind=lambda case: case.kind))
def test_a_workflow_gives_what_comfyui_gives(case: Case, harness: Harness):
    outcome = harness.run(case)
    if outcome.verdict in ("later", "note"):
        pytest.skip(f"{outcome.verdict}: {outcome.detail}")
    assert outcome.verdict == "pass", f"{outcome.detail} [{outcome.criterion}]"


@pytest.mark.skipif(REFERENCE is None, reason=ABSENT)
def test_what_is_listed_as_not_there_yet_is_just_what_is_missing(harness: Harness):
    missing = {name for case in CASES if not case.direct for name in harness.missing(case)}
    assert missing == later.CLASSES | {f"model {name}" for name in later.MODELS}
