"""The host device: threads of the server process that run value nodes (`Call` ops) on plain values."""

import gc
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter

from backend.deferred import torch
from backend.library import Library
from backend.node import NodeSpec, Result
from backend.ops import Call, Identify, Op
from backend.references import Ref
from backend.registry import Registry
from backend.types import DeviceId, OpKey
from backend.worker.exchange import Outputs, Value
from backend.worker.failure import failed
from backend.worker.messages import (
    Failed,
    Finished,
    HostCall,
    OpCancelled,
    Preview,
    Progress,
    Report,
    Started,
    Stored,
)
from backend.worker.threads import Threads

HOST = DeviceId("host")
_QUICK = 0.005  # seconds: clients need not hear of the beginning of a call that is over by then
_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Turn:
    """A thread at work. held: reports that wait; left: the thread was given up, and says nothing any more."""

    pool: Threads
    calls: Sequence[HostCall] = ()
    thread: threading.Thread = field(default_factory=threading.current_thread)
    held: list[Report] = field(default_factory=list)
    left: bool = False


class Host:
    """Runs calls and reports on each: Started, then Finished or Failed; OpCancelled where it never started,
    or was abandoned.

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
        self._serial = Threads(1, "host-serial")  # third-party code: one call at a time
        self._waiting: set[OpKey] = set()
        self._running: dict[OpKey, _Turn] = {}
        self._slow: dict[str, bool] = {}  # node classes, by how long their last call took
        self._lock = threading.Lock()

    def warm(self, torch_threads: int | None = None) -> None:
        """Load torch in the background, so that the first node need not wait for it (about 1.5 s)."""
        self._serial.submit(partial(_load_torch, torch_threads))

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
        serial = any(self._is_serial(call.op) for call in calls)
        pool = self._serial if serial else self._threads
        pool.submit(partial(self._run, calls, pool))

    def cancel(self, key: OpKey) -> None:
        """Drop a call that has not started; one that runs, runs to its end."""
        if self._take(key):
            self._report(HOST, OpCancelled(key))

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
        turn.pool.replace(turn.thread)
        self._tell([*turn.held, *map(OpCancelled, (key, *behind))])

    def unload(self) -> None:
        """The host holds no weights."""

    def stop(self) -> None:
        """Start nothing more. Threads in the middle of a call are not waited for."""
        for threads in (self._threads, self._serial):
            threads.stop()

    def _run(self, calls: Sequence[HostCall], pool: Threads) -> None:
        """Run calls in a row. Reports are held back while calls are known to be quick: each one would wake
        the event loop, which costs more than such a call takes.
        """
        made: dict[OpKey, Stored] = {}
        turn = _Turn(pool, calls)
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
                self._tell(held)
            answer, pictures = self._answer(call.key, call.op, {**call.inputs, **made})
            if not self._ended(call.key, turn, answer):
                return
            held.extend(_shown(call.key, pictures))
            held.append(answer)
            broken = isinstance(answer, Failed)
            if isinstance(answer, Finished):
                made[call.key] = answer.value
                self._slow[call.op.node] = answer.seconds > _QUICK
        self._tell(held)

    def _ended(self, key: OpKey, turn: _Turn, answer: Report) -> bool:
        """Whether the call's end still counts: the answer of a thread that was given up is dropped."""
        with self._lock:
            self._running.pop(key, None)
            if not turn.left:
                return True
        if isinstance(answer, Finished):
            answer.value.close()
        return False

    def _tell(self, held: list[Report]) -> None:
        for report in held:
            self._report(HOST, report)
        held.clear()

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

    def _answer(
        self, key: OpKey, op: Call, inputs: Mapping[OpKey, Stored]
    ) -> tuple[Finished | Failed, tuple[bytes, ...]]:
        """What became of a call, and the pictures that it sends to the client."""
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
            services = {name: self._services[kind] for name, kind in spec.services.items()}
            outputs, ui, pictures = call(spec, resolved, {**given, **services})
            seconds = perf_counter() - started
            lengths = tuple(len(items) for items in outputs)
            return Finished(key, Value.of(outputs), lengths, seconds, ui), pictures
        except (Exception, SystemExit) as error:
            _log.warning("node %s (%s) failed: %s", op.node_id, op.node, error, exc_info=error)
            shown = {**resolved, **{name: (value,) for name, value in given.items()}}
            return failed(key, error, shown, (__file__,)), ()


def _shown(key: OpKey, pictures: Sequence[bytes]) -> Iterator[Report]:
    """Pictures for the client, each followed by how many went before it: the socket sends them together."""
    for number, picture in enumerate(pictures):
        yield Preview(key, picture, "PNG")
        yield Progress(key, number, len(pictures))


def resolve(items: Sequence[object], inputs: Mapping[OpKey, Stored]) -> tuple[object, ...]:
    """A list of items with every `Ref` replaced by what it names."""
    return tuple(
        inputs[item.key].get()[item.slot][item.item] if isinstance(item, Ref) else item for item in items
    )


def call(
    spec: NodeSpec, inputs: Mapping[str, Sequence[object]], given: Mapping[str, object]
) -> tuple[Outputs, Mapping[str, list[object]] | None, tuple[bytes, ...]]:
    """Call a node once per item of its longest input, or once with whole lists where it takes lists.

    given: hidden inputs and services, equal in every call. Returns: outputs, the calls' ui joined key by
    key, and the pictures that they send. Raises: IndexError for an empty list beside filled ones; what the
    node raises.
    """
    outputs: list[list[object]] = [[] for _ in spec.outputs]
    ui: dict[str, list[object]] | None = None
    pictures: list[bytes] = []
    for arguments in _calls(spec, inputs):
        returned = spec.function(**arguments, **given)
        values = returned.values if isinstance(returned, Result) else returned
        for slot, value in enumerate(_values(spec, values, isinstance(returned, Result))):
            if spec.outputs[slot].is_list:
                outputs[slot].extend(value)  # type: ignore[arg-type]  # a list, or a TypeError that says so
            else:
                outputs[slot].append(value)
        if isinstance(returned, Result) and returned.ui is not None:
            ui = _joined(ui, returned.ui)
        if isinstance(returned, Result):
            pictures += returned.pictures
    return tuple(tuple(items) for items in outputs), ui, tuple(pictures)


def _calls(spec: NodeSpec, inputs: Mapping[str, Sequence[object]]) -> list[dict[str, object]]:
    """The arguments of each call."""
    if spec.input_is_list:
        return [{name: list(items) for name, items in inputs.items()}]
    longest = max(map(len, inputs.values()), default=0)
    if longest == 0:
        return [{}]
    for name, items in inputs.items():
        if not items:
            raise IndexError(f"Input {name!r} is an empty list, while others have up to {longest} items.")
    return [{name: items[min(i, len(items) - 1)] for name, items in inputs.items()} for i in range(longest)]


def _values(spec: NodeSpec, returned: object, listed: bool) -> tuple[object, ...]:
    """One value per output. listed: `returned` is known to be a tuple of outputs, even of one."""
    count = len(spec.outputs)
    if count == 0 and not returned:
        return ()
    if count == 1 and not listed:
        return (returned,)
    if not isinstance(returned, (tuple, list)):
        raise TypeError(
            f"{spec.name} has {count} outputs and returned a {type(returned).__name__}, no tuple."
        )
    if listed and not returned and count:
        raise TypeError(f"{spec.name} has {count} outputs and returned a Result without values.")
    if len(returned) != count:
        raise TypeError(f"{spec.name} has {count} outputs and returned {len(returned)} values.")
    return tuple(returned)


def _joined(
    ui: dict[str, list[object]] | None, more: Mapping[str, Sequence[object]]
) -> dict[str, list[object]]:
    """ui lists of another call appended; the first call says which keys there are."""
    if ui is None:
        return {name: list(items) for name, items in more.items()}
    for name, items in ui.items():
        items.extend(more.get(name, ()))
    return ui


def _load_torch(threads: int | None) -> None:
    if threads:
        torch.set_num_threads(threads)
    _log.debug("torch %s is loaded", torch.__version__)
    gc.collect()
    gc.freeze()  # what is there now stays: the collector need not walk through torch again and again
    gc.set_threshold(20_000, 20, 50)
