import threading

import pytest
import torch

from backend.errors import Interrupted
from backend.sampling.request import DenoiseRequest
from backend.worker.inverted import inverted


def a_request(value: float) -> DenoiseRequest:
    return DenoiseRequest(torch.full((1,), value), torch.tensor(1.0))


def test_what_the_code_asks_for_is_yielded_and_its_result_returned():
    run = inverted(lambda ask: float(ask(a_request(1.0))) + float(ask(a_request(2.0))))
    assert float(next(run).x) == 1.0
    assert float(run.send(torch.tensor(10.0)).x) == 2.0
    with pytest.raises(StopIteration) as end:
        run.send(torch.tensor(20.0))
    assert end.value.value == 30.0


def test_the_codes_exception_comes_out():
    def fail(ask):
        ask(a_request(1.0))
        raise ValueError("of the pack")

    run = inverted(fail)
    next(run)
    with pytest.raises(ValueError, match="of the pack"):
        run.send(torch.tensor(0.0))


def test_a_run_that_is_given_up_ends_its_code_even_if_that_asks_again():
    seen, over = [], threading.Event()

    def stubborn(ask):
        try:
            ask(a_request(1.0))
        except Interrupted:
            seen.append("told")
        try:
            ask(a_request(2.0))
        except Interrupted:
            seen.append("told again")
        over.set()

    run = inverted(stubborn)
    next(run)
    run.close()
    assert over.wait(5)
    assert seen == ["told", "told again"]


def test_the_code_computes_in_the_mode_of_who_started_it():
    with torch.inference_mode():
        with pytest.raises(StopIteration) as end:
            next(inverted(lambda ask: torch.is_inference_mode_enabled()))
        assert end.value.value is True
