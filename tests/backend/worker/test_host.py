"""Value nodes on the host's threads."""

import dataclasses
import threading
import time
from queue import Queue
from typing import Annotated

import pytest

from backend.components import Contents, File
from backend.errors import BadFile
from backend.library import Library
from backend.node import HiddenInput, Int, NodeSpec, OutputSpec, Result, node
from backend.ops import Call, Denoise, Identify
from backend.references import Ref
from backend.registry import Registry
from backend.settings import Settings
from backend.storage import Storage
from backend.types import Image, NodeId, OpKey
from backend.worker.exchange import Value
from backend.worker.failure import text
from backend.worker.host import Host
from backend.worker.messages import Failed, Finished, HostCall, OpCancelled, Preview, Progress, Started


@node("Double", category="test")
def double(*, value: Annotated[int, Int()] = 0, plus: int = 0) -> int:
    return 2 * value + plus


@node("Two", category="test")
def two(*, value: int = 0) -> tuple[int, str]:
    return value, str(value)


@node("Show", category="test", output_node=True)
def show(*, value: int = 0, settings: Settings, id: Annotated[str, HiddenInput("UNIQUE_ID")]) -> Result:
    return Result(ui={"text": [f"{id}:{value}:{settings.port}"]})


@node("Fail", category="test")
def fail(*, image: Image, value: int = 0) -> int:
    raise KeyError(f"no {value}")


@node("Quit", category="test")
def quit(*, value: int = 0) -> int:
    raise SystemExit(3)


@node("Wrong", category="test")
def wrong(*, value: int = 0) -> tuple[int, int]:
    return (1, 2, 3)


LISTS = NodeSpec(
    name="Lists",
    function=lambda value, plus: Result(([v + p for v, p in zip(value, plus * len(value), strict=False)],)),
    kind="value",
    category="test",
    inputs=(),
    outputs=(OutputSpec("INT", "INT", is_list=True),),
    input_is_list=True,
)


class Bench:
    """A host with the nodes above and what it reported."""

    def __init__(self, *more, library=None):
        self.reports = Queue()
        registry = Registry((double, two, show, fail, quit, wrong, LISTS, *more))
        report = lambda device, report: self.reports.put((device, report))  # noqa: E731
        self.host = Host(registry, {Settings: Settings(port=7), Library: library}, report, threads=4)

    def run(self, node, inputs, values=None, hidden=None, key="k"):
        call = Call(
            node, {name: tuple(items) for name, items in inputs.items()}, NodeId("9"), hidden=hidden or {}
        )
        self.host.run(OpKey(key), call, values or {})

    def next(self):
        device, report = self.reports.get(timeout=10)
        assert device == "host"
        return report

    def answer(self, *args, **kwargs):
        self.run(*args, **kwargs)
        assert self.next() == Started(OpKey("k"))
        return self.next()


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    bench.host.stop()


def outputs(report):
    assert isinstance(report, Finished), report
    assert report.lengths == tuple(map(len, report.value.get()))
    return report.value.get()


def test_a_node_is_called_once_per_item_of_its_longest_input(bench):
    assert outputs(bench.answer("Double", {"value": [1, 2, 3], "plus": [10, 20]})) == ((12, 24, 26),)
    assert outputs(bench.answer("Double", {})) == ((0,),)
    assert outputs(bench.answer("Two", {"value": [1, 2]})) == ((1, 2), ("1", "2"))


def test_refs_are_replaced_by_the_items_they_name(bench):
    earlier = Value.of(((1,), (7, 8)))
    inputs = {"value": [Ref(OpKey("e"), 1, 0), Ref(OpKey("e"), 1, 1)], "plus": [Ref(OpKey("e"))]}
    assert outputs(bench.answer("Double", inputs, {OpKey("e"): earlier})) == ((15, 17),)


def test_a_node_that_takes_lists_is_called_once_and_its_list_output_fans_out(bench):
    assert outputs(bench.answer("Lists", {"value": [1, 2, 3], "plus": [10]})) == ((11, 12, 13),)


def test_an_empty_list_is_an_error_beside_filled_ones_and_left_out_alone(bench):
    failure = bench.answer("Double", {"value": [], "plus": [1]})
    assert (failure.type, failure.message) == (
        "IndexError",
        "Input 'value' is an empty list, while others have up to 1 items.",
    )
    assert outputs(bench.answer("Double", {"value": []})) == ((0,),)


def test_services_and_hidden_inputs_are_filled_and_uis_joined(bench):
    report = bench.answer("Show", {"value": [4, 5]}, hidden={"id": "n1"})
    assert outputs(report) == ()
    assert report.ui == {"text": ["n1:4:7", "n1:5:7"]}


def test_a_failure_tells_its_inputs_and_only_the_nodes_own_frames(bench):
    import torch

    failure = bench.answer("Fail", {"image": [torch.zeros(1, 2, 2, 3)], "value": [5]})
    assert (failure.type, failure.message) == ("KeyError", "'no 5'")
    assert failure.inputs == {"image": ("Tensor(torch.float32, [1, 2, 2, 3])",), "value": (5,)}
    assert len(failure.traceback) == 1
    assert "test_host.py" in failure.traceback[0]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Quit", "3"),
        ("Wrong", "Wrong has 2 outputs and returned 3 values."),
        ("None", "'None' is not registered"),
    ],
)
def test_whatever_a_node_does_there_is_an_answer(bench, name, says):
    failure = bench.answer(name, {"value": [1]})
    assert isinstance(failure, Failed)
    assert says in failure.message


def test_serial_nodes_run_one_at_a_time_and_others_meanwhile():
    running, most, lock, together = [], [0], threading.Lock(), threading.Barrier(2)

    def slow():
        with lock:
            running.append(1)
            most[0] = max(most[0], len(running))
        time.sleep(0.02)
        with lock:
            running.pop()
        return Result((1,))

    def meet():
        together.wait(10)
        return Result((1,))

    out = (OutputSpec("INT", "INT"),)
    serial = NodeSpec("Slow", slow, "value", "test", (), out, serial=True)
    bench = Bench(serial, NodeSpec("Meet", meet, "value", "test", (), out))
    for i in range(4):
        bench.run("Slow", {}, key=f"s{i}")
    bench.run("Meet", {}, key="m0")
    bench.run("Meet", {}, key="m1")
    done = [bench.next() for _ in range(12)]
    assert sum(isinstance(report, Finished) for report in done) == 6
    assert most[0] == 1
    bench.host.stop()


def test_a_call_that_has_not_started_can_be_cancelled():
    go = threading.Event()
    out = (OutputSpec("INT", "INT"),)
    bench = Bench(NodeSpec("Wait", lambda: Result((go.wait(10),)), "value", "test", (), out, serial=True))
    bench.run("Wait", {}, key="first")
    bench.run("Wait", {}, key="second")
    assert bench.next() == Started(OpKey("first"))
    bench.host.cancel(OpKey("second"))
    bench.host.cancel(OpKey("first"))
    assert bench.next() == OpCancelled(OpKey("second"))
    go.set()
    assert bench.next().key == "first"
    bench.host.stop()


def test_only_calls_run_on_the_host(bench):
    with pytest.raises(TypeError, match="Call and Identify ops"):
        bench.host.run(OpKey("k"), Denoise(None, None, None, None, None), {})


def test_texts_of_inputs_are_short():
    assert text("x" * 5000).endswith(" ...")
    assert len(text(list(range(10000)))) < 200
    assert text({"a": [1, None]}) == "{'a': [1, None]}"


class Door:
    """Nodes that hang until the test lets them go."""

    def __init__(self, serial):
        self.entered, self.open = threading.Event(), threading.Event()
        wait = self.wait
        self.node = NodeSpec(
            name="Hang",
            function=lambda value: wait(value),
            kind="value",
            category="test",
            inputs=(),
            outputs=(OutputSpec("INT", "INT"),),
            serial=serial,
        )

    def wait(self, value):
        self.entered.set()
        assert self.open.wait(30)
        return value


@pytest.mark.parametrize("serial", [True, False])
def test_a_call_that_hangs_is_abandoned_and_others_go_on_in_its_place(serial):
    door = Door(serial)
    quick = NodeSpec(**{**vars_of(door.node), "name": "Quick", "function": lambda value: value})
    bench = Bench(door.node, quick)
    bench.run("Hang", {"value": [1]}, key="hung")
    assert bench.next() == Started(OpKey("hung"))
    assert door.entered.wait(10)
    for number in range(4 if serial else 3):  # as many as fill the other threads
        bench.run("Quick", {"value": [number]}, key=f"q{number}")
    bench.host.abandon(OpKey("hung"))
    bench.host.abandon(OpKey("hung"))  # once is enough
    seen = [bench.next() for _ in range(9 if serial else 7)]
    assert [r.key for r in seen if isinstance(r, OpCancelled)] == ["hung"]
    assert {r.key for r in seen if isinstance(r, Finished)} == {f"q{n}" for n in range(4 if serial else 3)}
    door.open.set()
    bench.run("Quick", {"value": [5]}, key="last")
    assert [type(bench.next()) for _ in range(2)] == [Started, Finished]
    time.sleep(0.05)
    assert bench.reports.empty()  # what the abandoned call returned in the end is nobody's


def test_calls_behind_an_abandoned_one_come_back_as_cancelled_and_those_before_it_are_told():
    door = Door(False)
    bench = Bench(door.node)
    for _ in range(2):  # known to be quick from now on: its reports are held back
        bench.run("Double", {"value": [1]})
        assert [type(bench.next()) for _ in range(2)] == [Started, Finished]
    chain = [
        HostCall(OpKey(key), Call(name, {"value": (1,)}, NodeId(key)), {})
        for key, name in (("first", "Double"), ("hung", "Hang"), ("behind", "Double"))
    ]
    bench.host.run_chain(chain)
    assert door.entered.wait(10)
    bench.host.abandon(OpKey("hung"))
    ends = [r for r in (bench.next() for _ in range(5)) if not isinstance(r, Started)]
    assert [(type(r), r.key) for r in ends] == [
        (Finished, "first"),
        (OpCancelled, "hung"),
        (OpCancelled, "behind"),
    ]
    door.open.set()


def vars_of(spec):
    return {field.name: getattr(spec, field.name) for field in dataclasses.fields(spec) if field.init}


def test_a_file_is_identified_on_a_thread():
    file = File("/m/a.safetensors", 1, 2, 3)

    def read(asked):
        assert asked == file
        if threading.current_thread() is threading.main_thread():
            raise AssertionError("the event loop must not hash")
        return Contents("digest", 9)

    bench = Bench(library=Library(Storage(Settings()), read))
    bench.host.run(OpKey("k"), Identify(file), {})
    assert bench.next() == Started(OpKey("k"))
    assert outputs(bench.next()) == ((Contents("digest", 9),),)
    bench.host.stop()


def test_a_file_that_cannot_be_identified_fails_its_op():
    def read(asked):
        raise BadFile(asked.path, "the file is cut off", "Copy it again.")

    bench = Bench(library=Library(Storage(Settings()), read))
    bench.host.run(OpKey("k"), Identify(File("/m/a.safetensors", 1, 2, 3)), {})
    assert bench.next() == Started(OpKey("k"))
    report = bench.next()
    assert isinstance(report, Failed)
    assert "/m/a.safetensors: the file is cut off" in report.message
    bench.host.stop()


def test_pictures_for_the_client_come_before_the_end_of_their_call():
    @node("Send", category="test", output_node=True)
    def send(*, value: int = 0) -> Result:
        return Result(pictures=(b"one", b"two"))

    bench = Bench(send)
    bench.run("Send", {"value": [1]})
    told = [report for _, report in (bench.reports.get(timeout=5) for _ in range(6))]
    assert told[0] == Started("k")
    assert told[1:5] == [
        Preview("k", b"one", "PNG"),
        Progress("k", 0, 2),
        Preview("k", b"two", "PNG"),
        Progress("k", 1, 2),
    ]
    assert isinstance(told[5], Finished)
