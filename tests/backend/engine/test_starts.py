"""How much is started at a time."""

from backend.components import Weights
from backend.engine.clock import ManualClock
from backend.engine.ready import Claim
from backend.engine.starts import AT_ONCE, Starts
from backend.ops import EncodeText
from backend.references import Clip
from backend.types import JobKey, OpKey
from tests.backend.engine.test_outlook import a_board
from tests.backend.graph.toys import a_file


def test_a_mass_start_lets_others_have_their_turn():
    workers = AT_ONCE + 100
    board = a_board(workers)
    starts = Starts(board, ManualClock(100.0))
    for number in range(workers):
        encode = EncodeText(Clip((Weights("text_encoder", f"clip{number}", (a_file("clip"),)),)), "cat")
        claim = Claim((float(number), number), f"user{number}")
        board.want(JobKey(number), claim, {OpKey(f"encode{number}"): encode})
    first = starts.dispatch(lambda live: "none", 0, lambda step, key, jobs: step())
    assert AT_ONCE <= len(first) < workers
    assert starts.more
    second = starts.dispatch(lambda live: "none", 0, lambda step, key, jobs: step())
    assert len(first) + len(second) == workers
    assert not starts.more
