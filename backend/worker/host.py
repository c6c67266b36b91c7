"""The host device: threads of the server process that run value nodes (`Call` ops) on plain values.

Built-in nodes run in parallel; third-party ones in turn, in a thread of their own with an event loop.
"""

import asyncio
import gc
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from inspect import isawaitable
from time import perf_counter
from typing import TypeVar

from backend.calling import CALL, CallContext, Picture
from backend.deferred import torch
from backend.errors import Interrupted
from backend.graph.questions import fingerprint
from backend.library import Library
from backend.node import NodeSpec
from backend.ops import Call, Expanded, Identify, Needs, Op
from backend.registry import Registry
from backend.types import ClientId, DeviceId, NodeId, OpKey
from backend.worker.call import Answers, answer, arguments, block, blocker, needed, outputs, resolve
from backend.worker.exchange import Outputs, Value
from backend.worker.failure import failed
from backend.worker.foreign import ForeignThread
from backend.worker.messages import (
    Asked,
    Failed,
    Finished,
    HostCall,
    OpCancelled,
    Preview,
    Progress,
    Report,
    Said,
    Started,
    Stopped,
    Stored,
    Unfinished,
)
from backend.worker.threads import Threads

HOST = DeviceId("host")
_QUICK = 0.005  # seconds: clients need not hear of the beginning of a call that is over by then
_OBJECTS = 4096  # of third-party nodes that are kept
_PATIENCE = 0.2  # seconds between two looks whether a waiting call was cancelled
_log = logging.getLogger(__name__)
_End = Finished | Failed | Unfinished | Stopped | OpCancelled
T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Turn:
    """A thread at work, or a task of the foreign thread (pool None).

    held: reports that wait; left: it was given up, and says nothing any more; cancelled: calls that are to
    stop where they can.
    """

    pool: Threads | None
    calls: Sequence[HostCall] = ()
    thread: threading.Thread = field(default_factory=threading.current_thread)
    held: list[Report] = field(default_factory=list)
    left: bool = False
    cancelled: set[OpKey] = field(default_factory=set)
    task: "asyncio.Task[None] | None" = None


class _Line:
    """A call's way to the engine (`backend.calling.Line`)."""

    __slots__ = ("_key", "_tell", "_turn")

    def __init__(self, key: OpKey, turn: _Turn, tell: Callable[[_Turn, Report], None]) -> None:
        self._key, self._turn, self._tell = key, turn, tell

    def check(self) -> None:
        if self._turn.left or self._key in self._turn.cancelled:
            raise Interrupted

    def progress(
        self, value: float, total: float, picture: Picture | None = None, node: NodeId | None = None
    ) -> None:
        self.check()
        if picture is not None:
            self._tell(self._turn, Preview(self._key, picture.image, picture.format, node))
        self._tell(self._turn, Progress(self._key, min(value, total), total, node))

    def show(self, pictures: Sequence[bytes]) -> None:
        """Pictures for the client, each followed by how many went before: the socket sends them together."""
        for number, picture in enumerate(pictures):
            reports = (Preview(self._key, picture, "PNG"), Progress(self._key, number, len(pictures)))
            self._turn.held.extend(reports)

    def send(self, event: str, data: object, client: ClientId | None = None) -> None:
        self._tell(self._turn, Said(event, data, client))

    def show_text(self, text: str, node: NodeId, client: ClientId | None = None) -> None:
        self._tell(self._turn, Said("text", text, client, node))

    def compute(self, op: Op[object]) -> Outputs:
        self.check()
        reply: Future[Outputs] = Future()
        self._tell(self._turn, Asked(self._key, op, reply))
        while True:
            try:
                return reply.result(_PATIENCE)
            except TimeoutError:
                self.check()


class Host:
    """Runs calls and reports on each: Started, then Finished, Failed, Unfinished or Stopped; OpCancelled
    where it never started, stopped when it was told to, or was abandoned.

    services: what nodes may ask for by parameter type. report is called from the host's threads.
    """

    def __init__(
        self,
        registry: Registry,
        services: Mapping[type, object],
        report: Callable[[DeviceId, Report], None],
        threads: int,
    ) -> None:
        self._registry, self._services, self._report = registry, services, report
        self._threads = Threads(threads, "host")
        self._foreign = ForeignThread("host-foreign")
        self._objects: OrderedDict[tuple[ClientId | None, NodeId, str], object] = OrderedDict()
        self._waiting: set[OpKey] = set()
        self._running: dict[OpKey, _Turn] = {}
        self._slow: dict[str, bool] = {}  # node classes, by how long their last call took
        self._lock = threading.Lock()

    def warm(self, torch_threads: int | None = None) -> None:
        """Load torch in the background, so that the first node need not wait for it (about 1.5 s)."""
        self._foreign.call(partial(_load_torch, torch_threads))

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
        """Start calls that one thread runs in a row, each free to read the results of those before it."""
        with self._lock:
            self._waiting.update(call.key for call in calls)
        if any(self._is_serial(call.op) for call in calls):
            for call in calls:
                self._foreign.submit(partial(self._run_foreign, call))
        else:
            self._threads.submit(partial(self._run, calls))

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
        self._foreign.call(self._objects.clear)

    def unload(self) -> None:
        """The host holds no weights."""

    def stop(self) -> None:
        """Start nothing more. Threads in the middle of a call are not waited for."""
        self._threads.stop()
        self._foreign.retire()

    def _run(self, calls: Sequence[HostCall]) -> None:
        """Run calls in a row. Reports are held back while calls are known to be quick: each one would wake
        the event loop, which costs more than such a call takes.
        """
        made: dict[OpKey, Stored] = {}
        turn = _Turn(self._threads, calls)
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
            if self._slow.get(call.op.node, True):
                self._flush(turn)
            end = _driven(self._answer(call.key, call.op, {**call.inputs, **made}, turn))
            if not self._ended(call.key, turn, end):
                return
            held.append(end)
            broken = not isinstance(end, Finished)
            if isinstance(end, Finished):
                made[call.key] = end.value
                self._slow[call.op.node] = end.seconds > _QUICK
        self._flush(turn)

    async def _run_foreign(self, call: HostCall) -> None:
        """Run a call of third-party code."""
        turn = _Turn(None, (call,), task=asyncio.current_task() if self._is_async(call.op) else None)
        if not self._take(call.key, turn):
            return
        turn.held.append(Started(call.key))
        if self._slow.get(call.op.node, True):
            self._flush(turn)
        end = await self._answer(call.key, call.op, call.inputs, turn)
        if not self._ended(call.key, turn, end):
            return
        if isinstance(end, Finished):
            self._slow[call.op.node] = end.seconds > _QUICK
        turn.held.append(end)
        self._flush(turn)

    def _ended(self, key: OpKey, turn: _Turn, answer: Report) -> bool:
        """Whether the call's end still counts: the answer of a thread that was given up is dropped."""
        with self._lock:
            self._running.pop(key, None)
            if not turn.left:
                return True
        if isinstance(answer, Finished):
            answer.value.close()
        return False

    def _flush(self, turn: _Turn) -> None:
        """Make the reports that were held back."""
        with self._lock:
            held = list(turn.held)
            turn.held.clear()
        for report in held:
            self._report(HOST, report)

    def _say(self, turn: _Turn, report: Report) -> None:
        """A report out of a running call."""
        if not turn.left:
            self._flush(turn)
            self._report(HOST, report)

    def _identify(self, key: OpKey, op: Identify) -> None:
        turn = _Turn(self._threads)
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

    def _take(self, key: OpKey, turn: _Turn | None = None) -> bool:
        """Whether the call was still waiting; it no longer is. turn: the thread that runs it from now on."""
        with self._lock:
            waited = key in self._waiting
            self._waiting.discard(key)
            if waited and turn is not None:
                self._running[key] = turn
        return waited

    def _is_serial(self, op: Call) -> bool:
        spec = self._registry.find(op.node)
        return spec is not None and spec.serial

    def _is_async(self, op: Call) -> bool:
        spec = self._registry.find(op.node)
        return spec is not None and spec.is_async

    async def _answer(
        self, key: OpKey, op: Call, inputs: Mapping[OpKey, Stored], turn: _Turn
    ) -> Finished | Failed | Unfinished | Stopped | OpCancelled:
        """Call the node. Nothing in here waits but a third-party node's coroutines."""
        spec = self._registry.find(op.node)
        resolved: Mapping[str, Sequence[object]] = op.inputs
        given: dict[str, object] = {}
        try:
            if spec is None:
                raise LookupError(
                    f"The node class {op.node!r} is not registered any more. Restart the server."
                )
            resolved = {name: resolve(items, inputs) for name, items in op.inputs.items()}
            given = {name: op.hidden.get(name) for name in spec.hidden}
            started = perf_counter()
            calls = _Calls(spec, op, self._given(spec, given), self._object(spec, op))
            calls.line = _Line(key, turn, self._say)
            return await self._called(key, calls, resolved, started)
        except (Interrupted, asyncio.CancelledError) as error:
            if key in turn.cancelled or turn.left:
                return OpCancelled(key)
            if isinstance(error, Interrupted):
                return Stopped(key)
            return failed(key, error, {}, (__file__,))
        except (Exception, SystemExit) as error:
            _log.warning("node %s (%s) failed: %s", op.node_id, op.node, error, exc_info=error)
            shown = {**resolved, **{name: (value,) for name, value in given.items()}}
            return failed(key, error, shown, (__file__,))

    async def _called(
        self, key: OpKey, calls: "_Calls", inputs: Mapping[str, Sequence[object]], started: float
    ) -> Finished | Unfinished:
        """Raises: what the node raises."""
        spec = calls.spec
        each = arguments(spec, inputs)
        if spec.check_lazy is not None:
            names = await calls.ask(each)
            wanted = needed(names, (*inputs, *calls.given), calls.op.missing)
            if wanted:
                return Unfinished(key, Needs(wanted), perf_counter() - started)
        answers = await calls.run(each)
        calls.line.show(answers.pictures)
        ui, blocked = answers.ui or None, tuple(answers.blocked)
        if answers.expands:
            expanded = Expanded(calls.op.node_id, tuple(answers.rows), await self._inner(calls.op, answers))
            return Unfinished(key, expanded, perf_counter() - started, ui, blocked)
        made = outputs(spec, answers.rows)
        seconds = perf_counter() - started
        return Finished(key, Value.of(made), tuple(map(len, made)), seconds, ui, blocked=blocked)

    async def _inner(self, op: Call, answers: Answers) -> dict[str, object]:
        """The fingerprints of the nodes that an expansion brings."""
        found: dict[str, object] = {}
        for id, raw in ((id, raw) for row in answers.rows for id, raw in (row.nodes or {}).items()):
            spec = self._registry.find(str(raw.get("class_type")))
            inputs = raw.get("inputs")
            if spec is not None and spec.dynamic and spec.fingerprint is not None:
                known = inputs if isinstance(inputs, Mapping) else {}
                found[id] = await fingerprint(spec, NodeId(id), known, op.hidden.get("prompt"))
        return found

    def _given(self, spec: NodeSpec, hidden: Mapping[str, object]) -> dict[str, object]:
        """What every call of the node is handed beside its inputs."""
        services = {name: self._services[kind] for name, kind in spec.services.items()}
        listed = spec.dynamic and spec.input_is_list
        return {**({n: [v] for n, v in hidden.items()} if listed else hidden), **services}

    def _object(self, spec: NodeSpec, op: Call) -> tuple[object, ...]:
        """The node's own object, made at its first call, for classes that have one."""
        if spec.make is None:
            return ()
        owner = (op.client, op.node_id, spec.name)
        if owner not in self._objects:
            self._objects[owner] = spec.make()
        self._objects.move_to_end(owner)
        if len(self._objects) > _OBJECTS:
            self._objects.popitem(last=False)
        return (self._objects[owner],)


@dataclass(slots=True)
class _Calls:
    """The calls of one node: made in turn, or together where its function is a coroutine function.

    given: hidden inputs and services, equal in every call; itself: the node's object, or nothing.
    """

    spec: NodeSpec
    op: Call
    given: Mapping[str, object]
    itself: tuple[object, ...]
    line: _Line = field(init=False)

    async def ask(self, each: Sequence[Mapping[str, object]]) -> list[object]:
        """The lazy inputs that any call needs."""
        names: list[object] = []
        assert self.spec.check_lazy is not None
        for i, inputs in enumerate(each):
            if blocker(self.spec, inputs) is None:
                returned = await self._one(self.spec.check_lazy, i, inputs)
                names += returned if isinstance(returned, list) else []
        return names

    async def run(self, each: Sequence[Mapping[str, object]]) -> Answers:
        spec, answers = self.spec, Answers()
        blockers = [blocker(spec, inputs) for inputs in each]
        ready: Mapping[int, Coroutine[object, object, object] | asyncio.Task[object]]
        ready = {i: self._one(spec.function, i, inputs) for i, inputs in enumerate(each) if not blockers[i]}
        if spec.is_async and len(ready) > 1:
            ready = {i: asyncio.ensure_future(call) for i, call in ready.items()}
        try:
            for i, by in enumerate(blockers):
                if by is not None:
                    block(spec, by, answers)
                else:
                    answer(spec, await ready[i], answers)
        finally:
            for left in ready.values():  # after an exception
                _ = left.cancel() if isinstance(left, asyncio.Task) else left.close()
        return answers

    async def _one(self, function: Callable[..., object], i: int, inputs: Mapping[str, object]) -> object:
        """One call, in its context."""
        self.line.check()
        op = self.op
        token = CALL.set(CallContext(op.job, op.client, op.node_id, op.node, i, self.line))
        try:
            returned = function(*self.itself, **inputs, **self.given)
            return await returned if self.spec.dynamic and isawaitable(returned) else returned
        finally:
            CALL.reset(token)


def _driven(work: Coroutine[object, object, T]) -> T:
    """The result of a coroutine that never has to wait."""
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    work.close()
    raise RuntimeError("a built-in node's function is a coroutine")


def _load_torch(threads: int | None) -> None:
    if threads:
        torch.set_num_threads(threads)
    _log.debug("torch %s is loaded", torch.__version__)
    gc.collect()
    gc.freeze()  # what is there now stays: the collector need not walk through torch again and again
    gc.set_threshold(20_000, 20, 50)
