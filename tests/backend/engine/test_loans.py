"""Loans between workers that are fakes; segments are files of their own."""

from backend.engine.loans import Loans
from backend.types import DeviceId
from backend.worker.messages import Ask, Evaluated, Segment

LEAD, HELPER = DeviceId("lead"), DeviceId("helper")


class Ends:
    """A worker's server side, as far as loans go."""

    def __init__(self):
        self.evaluated, self.answered = [], []

    def evaluate(self, number, lead, loan):
        self.evaluated.append((number, lead, loan))

    def answer(self, number, output):
        self.answered.append((number, output))


def bench(tmp_path):
    workers = {LEAD: Ends(), HELPER: Ends()}
    path = tmp_path / "segment"
    path.write_bytes(b"x")
    return workers, Loans(workers), path, Segment(str(path), 1)


def test_a_call_goes_to_its_helper_and_the_output_back(tmp_path):
    workers, loans, _, segment = bench(tmp_path)
    loans.asked(LEAD, Ask(7, HELPER, segment))
    assert workers[HELPER].evaluated == [(7, LEAD, segment)]
    output = Segment("out", 1)
    loans.evaluated(Evaluated(7, LEAD, output))
    assert workers[LEAD].answered == [(7, output)]
    assert len(loans) == 0


def test_what_a_dead_helper_was_to_compute_comes_back_at_once(tmp_path):
    workers, loans, path, segment = bench(tmp_path)
    loans.asked(LEAD, Ask(7, HELPER, segment))
    loans.lost(HELPER)
    assert workers[LEAD].answered == [(7, None)]
    assert not path.exists()


def test_a_helper_that_is_not_up_is_not_asked(tmp_path):
    workers, loans, path, segment = bench(tmp_path)
    loans.lost(HELPER)
    loans.asked(LEAD, Ask(7, HELPER, segment))
    assert workers[LEAD].answered == [(7, None)]
    assert workers[HELPER].evaluated == []
    assert not path.exists()
    loans.up(HELPER)
    path.write_bytes(b"x")
    loans.asked(LEAD, Ask(8, HELPER, segment))
    assert [number for number, *_ in workers[HELPER].evaluated] == [8]


def test_an_output_that_nobody_waits_for_is_deleted(tmp_path):
    workers, loans, path, segment = bench(tmp_path)
    loans.asked(LEAD, Ask(7, HELPER, Segment("loan", 1)))
    loans.lost(LEAD)
    loans.evaluated(Evaluated(7, LEAD, segment))
    assert workers[LEAD].answered == []
    assert not path.exists()
