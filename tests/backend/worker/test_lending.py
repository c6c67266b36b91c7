"""Two step loops that share the calls of a run."""

import pytest
import torch

from backend.references import ControlNet, ControlUse
from backend.types import DeviceId, OpKey
from backend.worker.messages import Failed, Progress
from backend.worker.steploop import Ended, Lent, StepLoop
from tests.backend.worker.fakes import ControlFormula, Formula, a_cond, a_run, an_op, steered

HELPER, OTHER = DeviceId("helper"), DeviceId("other")
NET = ControlNet(ControlFormula.weights)


class Lead:
    """A step loop whose loans are kept, for the test to answer."""

    def __init__(self, network=None):
        self.network = network or Formula()
        self.reports = []
        self.loop = StepLoop(64, self.reports.append)

    def add(self, key="op", **run):
        self.loop.add(an_op(), a_run(key, self.network, **run), None)

    def lent(self):
        """The loans since this was last asked."""
        found = [report for report in self.reports if isinstance(report, Lent)]
        self.reports[:] = [report for report in self.reports if not isinstance(report, Lent)]
        return found

    def helped(self, helper):
        """To the end, the helper answering each loan at once. Returns: the helpers that were asked."""
        asked = []
        for _ in range(50):
            if not len(self.loop):
                return asked
            self.loop.turn()
            for loan in self.lent():
                asked.append(loan.helper)
                call = loan.loan
                self.loop.answer(loan.number, helper.forward(call.x, call.timesteps, call.tokens))
        raise AssertionError("the loop does not end")

    def samples(self, key="op"):
        return next(r.outputs[0].samples for r in self.reports if isinstance(r, Ended) and r.key == key)


def alone(**run):
    lead = Lead()
    lead.add(**run)
    lead.helped(None)
    return lead.samples()


def test_a_split_run_ends_as_it_does_alone_with_half_of_its_rows_elsewhere():
    lead, helper = Lead(), Formula()
    lead.add()
    lead.loop.split(OpKey("op"), HELPER)
    assert lead.helped(helper) == [HELPER] * 4
    assert torch.allclose(lead.samples(), alone(), atol=1e-5)
    assert lead.network.passes == helper.passes == [1] * 4
    assert [r.value for r in lead.reports if isinstance(r, Progress)] == [1, 2, 3, 4]


def test_while_a_run_waits_for_its_helper_the_others_go_on():
    lead = Lead()
    lead.add("split")
    lead.add("whole", seed=1)
    lead.loop.split(OpKey("split"), HELPER)
    for _ in range(4):
        lead.loop.turn()
    assert [r.key for r in lead.reports if isinstance(r, Ended)] == ["whole"]
    assert len(lead.lent()) == 1
    assert len(lead.loop) == 0  # nothing that a turn would bring on


@pytest.mark.parametrize("how", ["it could not", "it is needed elsewhere"])
def test_what_a_helper_does_not_bring_back_is_computed_at_home(how):
    lead = Lead()
    lead.add()
    lead.loop.split(OpKey("op"), HELPER)
    lead.loop.turn()
    (loan,) = lead.lent()
    if how == "it could not":
        lead.loop.answer(loan.number, None)
    lead.loop.unsplit(OpKey("op"), HELPER)
    assert lead.helped(None) == []
    assert torch.allclose(lead.samples(), alone(), atol=1e-5)


def test_three_conditions_go_to_two_helpers():
    lead, helper = Lead(), Formula()
    steering = steered((a_cond(1.0), a_cond(0.5)), (a_cond(-1.0),), cfg=3.0)
    lead.add(steering=steering)
    for name in (HELPER, OTHER):
        lead.loop.split(OpKey("op"), name)
    assert set(lead.helped(helper)) == {HELPER, OTHER}
    assert torch.allclose(lead.samples(), alone(steering=steering), atol=1e-5)


def test_answers_for_runs_that_are_gone_are_dropped():
    lead = Lead()
    lead.add()
    lead.loop.split(OpKey("op"), HELPER)
    lead.loop.turn()
    (loan,) = lead.lent()
    assert lead.loop.cancel(OpKey("op"))
    lead.loop.answer(loan.number, loan.loan.x)
    assert lead.reports == []


def test_a_run_that_was_paused_asks_again():
    lead, helper = Lead(), Formula()
    lead.add()
    lead.loop.split(OpKey("op"), HELPER)
    lead.loop.turn()
    (late,) = lead.lent()
    lead.loop.pause(OpKey("op"))
    lead.loop.answer(late.number, late.loan.x)
    lead.loop.resume(OpKey("op"))
    assert lead.helped(helper) == [HELPER] * 4
    assert torch.allclose(lead.samples(), alone(), atol=1e-5)


def test_a_call_that_fails_at_home_ends_the_run_and_its_loans():
    lead = Lead(Formula(most_rows=0))
    lead.add()
    lead.loop.split(OpKey("op"), HELPER)
    lead.loop.turn()
    (loan,) = lead.lent()
    assert [type(report) for report in lead.reports] == [Failed]
    lead.loop.answer(loan.number, None)
    assert len(lead.reports) == 1


def controlled(cfg=1.0):
    """Conditions of which the first has a ControlNet."""
    hint = torch.linspace(0, 1, 64 * 64 * 3).reshape(1, 64, 64, 3)
    first = a_cond(1.0, control=(ControlUse(NET, hint, 0.8, 0.0, 1.0),))
    return steered((first,), (a_cond(-1.0),), cfg=cfg)


class Aside(Lead):
    """A step loop whose ControlNets a helper asks. answers: what comes back of each loan; None: nothing."""

    def __init__(self, answers, late=True):
        self.control, self.answers = ControlFormula(late), answers
        super().__init__()
        self.loop = StepLoop(64, self.reports.append, wait=self.wait)

    def wait(self, number, helper):
        (lent,) = self.lent()
        assert (lent.number, lent.helper) == (number, HELPER)
        return self.answers(lent.loan)

    def result(self, split=True):
        self.add(steering=controlled(), nets={NET: self.control})
        if split:
            self.loop.split(OpKey("op"), HELPER, "controls")
        self.helped(None)
        return self.samples()


def test_a_helper_asks_the_controlnet_and_the_run_ends_as_it_does_alone():
    there = ControlFormula()
    lead = Aside(lambda loan: there.forward(loan.given))
    assert torch.allclose(lead.result(), Aside(None).result(split=False), atol=1e-5)
    assert (there.rows, lead.control.rows) == ([1] * 4, [])


def test_a_controlnet_that_a_helper_does_not_ask_is_asked_at_home():
    lead = Aside(lambda loan: None)
    assert torch.allclose(lead.result(), Aside(None).result(split=False), atol=1e-5)
    assert lead.control.rows == [1] * 4


def test_what_a_pass_needs_from_its_beginning_is_computed_at_home():
    lead = Aside(None, late=False)
    lead.result()
    assert lead.control.rows == [1] * 4


def test_a_helper_is_asked_no_more_once_it_is_needed_elsewhere():
    asked = []
    lead = Aside(asked.append)
    lead.add(steering=controlled(), nets={NET: lead.control})
    lead.loop.split(OpKey("op"), HELPER, "controls")
    lead.loop.turn()
    lead.loop.unsplit(OpKey("op"), HELPER)
    lead.helped(None)
    assert len(asked) == 1


def test_a_call_goes_to_a_helper_with_its_controlnet():
    lead, control = Lead(), ControlFormula()
    lead.add(steering=controlled(cfg=3.0), nets={NET: control})
    lead.loop.split(OpKey("op"), HELPER)
    lead.loop.turn()
    calls = [lent.loan for lent in lead.lent()]
    kept = 2 - len(calls)
    assert len(calls) == 1
    assert (len(calls[0].controls), len(control.rows)) in ((1, 0), (0, kept))
    for lent in calls[0].controls:
        assert (lent.weights, lent.strength) == (NET.weights, 0.8)
