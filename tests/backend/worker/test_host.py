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
from backend.node import Int, NodeSpec, OutputSpec, Result, node
from backend.ops import Call, Denoise, Identify
from backend.registry import Registry
from backend.settings import Settings
from backend.storage import Storage
from backend.types import NodeId, OpKey
from backend.worker.host import Host
from backend.worker.messages import Failed, Finished, HostCall, OpCancelled, Preview, Progress, Started


@node("Double", category="test")
def double(*, value: Annotated[int, Int()] = 0, plus: int = 0) -> int:
    return 2 * value + plus


class Bench:
    """A host and what it reported."""

    def __init__(self, *more, library=None):
        self.reports = Queue()
        registry = Registry((double, *more))
        self.host = Host(registry, {Settings: Settings(port=7), Library: library}, self.take, threads=4)

    def take(self, device, *reports):
        for report in reports:
            self.reports.put((device, report))

    def run(self, *args, **more):
        self.put(*args, **more)
        self.host.run_quick()

    def put(self, node, inputs, values=None, hidden=None, key="k"):
        call = Call(
            node, {name: tuple(items) for name, items in inputs.items()}, NodeId("9"), hidden=hidden or {}
        )
        self.host.run(OpKey(key), call, values or {})

    def next(self):
        device, report = self.reports.get(timeout=10)
        assert device == "host"
        return report

    def ends(self, count):
        """The next reports that are no beginnings; those of quick calls are not told."""
        found = []
        while len(found) < count:
            if not isinstance(report := self.next(), Started):
                found.append(report)
        return found


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    bench.host.stop()


def outputs(report):
    assert isinstance(report, Finished), report
    assert report.lengths == tuple(map(len, report.value.get()))
    return report.value.get()


def test_the_beginning_of_a_call_is_told_until_its_class_is_known_to_be_quick(bench):
    bench.run("Double", {"value": [1]})
    assert [type(bench.next()) for _ in range(2)] == [Started, Finished]
    for _ in range(100):  # a busy machine may make any single call slow
        bench.run("Double", {"value": [1]})
        if isinstance(bench.next(), Finished):
            return
        assert isinstance(bench.next(), Finished)
    pytest.fail("every call was told to begin")


def test_the_effort_of_a_call_leaves_out_what_it_waited_for():
    @node("Nap", category="test")
    def nap(*, value: int = 0) -> int:
        time.sleep(0.1)
        return value

    bench = Bench(nap)
    bench.run("Nap", {"value": [1]})
    (end,) = bench.ends(1)
    assert end.seconds >= 0.1 > 2 * end.effort
    bench.host.stop()


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
    seen = bench.ends(5 if serial else 4)
    assert [r.key for r in seen if isinstance(r, OpCancelled)] == ["hung"]
    assert {r.key for r in seen if isinstance(r, Finished)} == {f"q{n}" for n in range(4 if serial else 3)}
    door.open.set()
    bench.run("Quick", {"value": [5]}, key="last")
    assert [type(end) for end in bench.ends(1)] == [Finished]
    time.sleep(0.05)
    assert bench.reports.empty()  # what the abandoned call returned in the end is nobody's


def test_calls_behind_an_abandoned_one_come_back_as_cancelled_and_those_before_it_are_told():
    door = Door(False)
    bench = Bench(door.node)
    for _ in range(2):  # known to be quick from now on: its reports are held back
        bench.run("Double", {"value": [1]})
        assert [type(end) for end in bench.ends(1)] == [Finished]
    chain = [
        HostCall(OpKey(key), Call(name, {"value": (1,)}, NodeId(key)), {})
        for key, name in (("first", "Double"), ("hung", "Hang"), ("behind", "Double"))
    ]
    bench.host.run_chain(chain)
    bench.host.run_quick()
    assert door.entered.wait(10)
    bench.host.abandon(OpKey("hung"))
    assert [(type(r), r.key) for r in bench.ends(3)] == [
        (Finished, "first"),
        (OpCancelled, "hung"),
        (OpCancelled, "behind"),
    ]
    door.open.set()


def test_quick_calls_are_waited_for_and_one_that_hangs_is_not():
    door = Door(False)
    door.open.set()
    bench = Bench(door.node)
    for name in ("Double", "Hang"):  # known to be quick from now on
        bench.run(name, {"value": [1]})
        assert [type(end) for end in bench.ends(1)] == [Finished]
    for key in ("quick", "too"):
        bench.put("Double", {"value": [1]}, key=key)
    assert bench.reports.empty()
    bench.host.run_quick()
    assert [bench.reports.get_nowait()[1].key for _ in range(2)] == ["quick", "too"]
    door.open.clear()
    door.entered.clear()
    bench.put("Hang", {"value": [1]}, key="hung")
    bench.put("Double", {"value": [1]}, key="behind")
    began = time.monotonic()
    bench.host.run_quick()
    assert time.monotonic() - began < 1.0
    assert door.entered.wait(10)
    assert [report.key for report in bench.ends(1)] == ["behind"]
    door.open.set()
    assert [report.key for report in bench.ends(1)] == ["hung"]


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
