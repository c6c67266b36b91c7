"""The host device: threads of the server process that run value nodes (`Call` ops) on plain values.

Built-in nodes run in parallel; third-party ones in turn, in a thread of their own with an event loop.
"""

import asyncio
import gc
import logging
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from math import inf
from time import perf_counter
from typing import Protocol, TypeVar

from backend.deferred import torch
from backend.library import Library
from backend.ops import Call, Identify, Op
from backend.registry import Registry
from backend.types import DeviceId, OpKey
from backend.worker.exchange import Value
from backend.worker.failure import failed
from backend.worker.foreign import ForeignThread
from backend.worker.messages import Failed, Finished, HostCall, OpCancelled, Report, Started, Stored
from backend.worker.node_calls import NodeCalls
from backend.worker.threads import Threads
from backend.worker.turn import Turn

HOST = DeviceId("host")
_QUICK = 0.005  # seconds: clients need not hear of the beginning of a call that is over by then
_MOMENT = 0.002  # seconds: calls in a row that last took less are worth waiting for
_log = logging.getLogger(__name__)
T = TypeVar("T")


class Reporter(Protocol):
    """Takes what a device says, from any thread."""

    def __call__(self, device: DeviceId, *reports: Report) -> None: ...


class Host:
    """Runs calls and reports on each: Started (left out where its end is reported with it), then Finished,
    Failed, Unfinished or Stopped; OpCancelled where it never started, stopped when told to, or was abandoned.

    services: what nodes may ask for by parameter type. report is called from the host's threads.
    """

    def __init__(
        self,
        registry: Registry,
        services: Mapping[type, object],
        report: Reporter,
        threads: int,
    ) -> None:
        self._calls = NodeCalls(registry, services)
        self._services, self._report = services, report
        self._threads = Threads(threads, "host")
        self._foreign = ForeignThread("host-foreign")
        self._waiting: set[OpKey] = set()
        self._running: dict[OpKey, Turn] = {}
        self._took: dict[str, float] = {}  # seconds of each node class's last call
        self._quick: list[Sequence[HostCall]] = []  # chains for `run_quick`
        self._lock = threading.Lock()

    def warm(self, torch_threads: int | None = None) -> None:
        """Load torch in the background, so that the first node need not wait for it (about 1.5 s)."""
        self._foreign.call(partial(load_torch, torch_threads))

    def run(
        self,
        key: OpKey,
        op: Op[object],
        inputs: Mapping[OpKey, Stored],
        preview: str = "none",
        preview_size: int = 512,
    ) -> None:
        """Start a call soon. inputs: the result of every op that `op` refers to. Calls have no previews."""
        match op:
            case Call():
                self.run_chain([HostCall(key, op, inputs)])
            case Identify():
                with self._lock:
                    self._waiting.add(key)
                self._threads.submit(partial(self._identify, key, op))
            case _:
                raise TypeError(f"the host runs Call and Identify ops, and {key} is a {type(op).__name__}")

    def run_chain(self, calls: Sequence[HostCall]) -> None:
        """Start calls that one thread runs in a row, each free to read the results of those before it. Those
        known to be over in a moment start with `run_quick`.
        """
        with self._lock:
            self._waiting.update(call.key for call in calls)
        if any(self._is_serial(call.op) for call in calls):
            for call in calls:
                self._foreign.submit(partial(self._run_foreign, call))
        elif sum([self._took.get(call.op.node, inf) for call in calls]) < _MOMENT:
            self._quick.append(calls)
        else:
            self._threads.submit(partial(self._run, calls))

    def run_quick(self) -> None:
        """Run the chains that were put off, one after the other, and let each end first, for 5 ms in all.

        All threads share one lock, and calls like these let go of it a dozen times. A thread that works on
        beside them takes it every time, and to change threads costs more than such a call.
        """
        quick, self._quick = self._quick, []
        end = perf_counter() + _QUICK
        for calls in quick:
            over = threading.Lock()
            over.acquire()
            self._threads.submit(partial(self._run, calls, over.release))
            over.acquire(timeout=max(0.0, end - perf_counter()))

    def cancel(self, key: OpKey) -> None:
        """Drop a call that has not started. One that runs stops when it reports its progress or awaits, if it
        does; otherwise it runs to its end.
        """
        if self._take(key):
            self._report(HOST, OpCancelled(key))
            return
        with self._lock:
            turn = self._running.get(key)
            if turn is None:
                return
            turn.cancelled.add(key)
            task = turn.task
        if task is not None:
            self._foreign.cancel(task)

    def abandon(self, key: OpKey) -> None:
        """Give up a call that runs and does not end: another thread takes the place of its own, and what it
        may yet return is dropped. Calls that waited behind it come back as cancelled.
        """
        with self._lock:
            turn = self._running.pop(key, None)
            if turn is None:
                return
            turn.left = True
            behind = [call.key for call in turn.calls if call.key in self._waiting]
            self._waiting.difference_update(behind)
        _log.warning("a call was cancelled and does not end (op %s): its thread is left behind", key)
        if turn.pool is not None:
            turn.pool.replace(turn.thread)
        else:
            self._replace_foreign()
        self._flush(turn)
        for gone in (key, *behind):
            self._report(HOST, OpCancelled(gone))

    def _replace_foreign(self) -> None:
        """Third-party calls go on in another thread. Coroutines of the old one go on where they are."""
        with self._lock:
            old, self._foreign = self._foreign, ForeignThread("host-foreign")
        for work in old.retire():
            self._foreign.submit(work)

    def forget(self) -> None:
        """Drop the objects of third-party nodes; they are made anew."""
        self._foreign.call(self._calls.forget)

    def unload(self) -> None:
        """The host holds no weights."""

    def stop(self) -> None:
        """Start nothing more. Threads in the middle of a call are not waited for."""
        self._threads.stop()
        self._foreign.retire()

    def _run(self, calls: Sequence[HostCall], over: Callable[[], None] = lambda: None) -> None:
        try:
            self._run_in_a_row(calls)
        finally:
            over()

    def _run_in_a_row(self, calls: Sequence[HostCall]) -> None:
        """Reports are held back while calls are known to be quick: each one would wake the event loop, which
        costs more than such a call takes.
        """
        made: dict[OpKey, Stored] = {}
        turn = Turn(self._threads, calls)
        held = turn.held
        broken = False
        for call in calls:
            if not self._take(call.key, turn):
                continue  # cancelled, and reported by who cancelled it
            if broken:
                self._running.pop(call.key)
                held.append(OpCancelled(call.key))
                continue
            held.append(Started(call.key))
            if self._took.get(call.op.node, inf) > _QUICK:
                self._flush(turn)
            end = _driven(self._calls.answer(call.key, call.op, {**call.inputs, **made}, turn, self._say))
            if not self._ended(call.key, turn, end):
                return
            if isinstance(end, Finished) and held and isinstance(held[-1], Started):
                held.pop()  # nobody need hear of a beginning when the end is known
            held.append(end)
            broken = not isinstance(end, Finished)
            if isinstance(end, Finished):
                made[call.key] = end.value
                self._took[call.op.node] = end.seconds
        self._flush(turn)

    async def _run_foreign(self, call: HostCall) -> None:
        """Run a call of third-party code."""
        turn = Turn(None, (call,), task=asyncio.current_task() if self._is_async(call.op) else None)
        if not self._take(call.key, turn):
            return
        turn.held.append(Started(call.key))
        if self._took.get(call.op.node, inf) > _QUICK:
            self._flush(turn)
        end = await self._calls.answer(call.key, call.op, call.inputs, turn, self._say)
        if not self._ended(call.key, turn, end):
            return
        if isinstance(end, Finished):
            self._took[call.op.node] = end.seconds
        turn.held.append(end)
        self._flush(turn)

    def _ended(self, key: OpKey, turn: Turn, answer: Report) -> bool:
        """Whether the call's end still counts: the answer of a thread that was given up is dropped."""
        with self._lock:
            self._running.pop(key, None)
            if not turn.left:
                return True
        if isinstance(answer, Finished):
            answer.value.close()
        return False

    def _flush(self, turn: Turn) -> None:
        """Make the reports that were held back."""
        with self._lock:
            held = list(turn.held)
            turn.held.clear()
        if held:
            self._report(HOST, *held)  # at once: the event loop is woken, and turns, once

    def _say(self, turn: Turn, report: Report) -> None:
        """A report out of a running call."""
        if not turn.left:
            self._flush(turn)
            self._report(HOST, report)

    def _identify(self, key: OpKey, op: Identify) -> None:
        turn = Turn(self._threads)
        if not self._take(key, turn):
            return
        self._report(HOST, Started(key))
        answer = self._identified(key, op)
        if self._ended(key, turn, answer):
            self._report(HOST, answer)

    def _identified(self, key: OpKey, op: Identify) -> Finished | Failed:
        library = self._services[Library]
        assert isinstance(library, Library)
        started = perf_counter()
        try:
            contents = library.identify(op.file)
        except Exception as error:  # around an operation
            _log.warning("%s can't be identified: %s", op.file.path, error)
            return failed(key, error, {"file": (op.file.path,)}, (__file__,))
        return Finished(key, Value.of(((contents,),)), (1,), perf_counter() - started)

    def _take(self, key: OpKey, turn: Turn | None = None) -> bool:
        """Whether the call was still waiting; it no longer is. turn: the thread that runs it from now on."""
        with self._lock:
            waited = key in self._waiting
            self._waiting.discard(key)
            if waited and turn is not None:
                self._running[key] = turn
        return waited

    def _is_serial(self, op: Call) -> bool:
        spec = self._calls.spec(op)
        return spec is not None and spec.serial

    def _is_async(self, op: Call) -> bool:
        spec = self._calls.spec(op)
        return spec is not None and spec.is_async


def _driven(work: Coroutine[object, object, T]) -> T:
    """The result of a coroutine that never has to wait."""
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    work.close()
    raise RuntimeError("a built-in node's function is a coroutine")


def load_torch(threads: int | None = None) -> None:
    """Now, to compute with so many threads. None: with as many as torch chooses."""
    if threads:
        torch.set_num_threads(threads)
    _log.debug("torch %s is loaded", torch.__version__)
    gc.collect()
    gc.freeze()  # what is there now stays: the collector need not walk through torch again and again
    gc.set_threshold(20_000, 20, 50)
