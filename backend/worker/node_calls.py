"""The calls of one node: handed their inputs, made, and answered with a report. Nothing in here waits but a
third-party node's coroutines.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from inspect import isawaitable
from time import perf_counter, thread_time
from typing import TypeAlias

from backend.calling import CALL, CallContext
from backend.errors import Interrupted
from backend.graph.questions import fingerprint
from backend.node import NodeSpec
from backend.ops import Call, Expanded, Needs
from backend.registry import Registry
from backend.types import ClientId, NodeId, OpKey
from backend.worker.call import Answers, answer, arguments, block, blocker, needed, outputs, resolve
from backend.worker.exchange import Value
from backend.worker.failure import failed
from backend.worker.messages import Failed, Finished, OpCancelled, Stopped, Stored, Unfinished
from backend.worker.turn import CallLine, Tell, Turn

_OBJECTS = 4096  # of third-party nodes that are kept
_log = logging.getLogger(__name__)
End: TypeAlias = Finished | Failed | Unfinished | Stopped | OpCancelled


@dataclass(slots=True)
class _Calls:
    """The calls of one node: made in turn, or together where its function is a coroutine function.

    given: hidden inputs and services, equal in every call; itself: the node's object, or nothing.
    """

    spec: NodeSpec
    op: Call
    given: Mapping[str, object]
    itself: tuple[object, ...]
    line: CallLine

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


class NodeCalls:
    """Answers `Call` ops, each with a report of its end.

    services: what nodes may ask for by parameter type.
    """

    def __init__(self, registry: Registry, services: Mapping[type, object]) -> None:
        self._registry, self._services = registry, services
        self._objects: OrderedDict[tuple[ClientId | None, NodeId, str], object] = OrderedDict()

    def forget(self) -> None:
        """Drop the objects of third-party nodes; they are made anew."""
        self._objects.clear()

    def spec(self, op: Call) -> NodeSpec | None:
        """The node class that is called, None where there is none of that name any more."""
        return self._registry.find(op.node)

    async def answer(
        self, key: OpKey, op: Call, inputs: Mapping[OpKey, Stored], turn: Turn, tell: Tell
    ) -> End:
        """Call the node. tell: where a running call's reports go."""
        spec = self.spec(op)
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
            line = CallLine(key, turn, tell)
            calls = _Calls(spec, op, self._given(spec, given), self._object(spec, op), line)
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
        self, key: OpKey, calls: _Calls, inputs: Mapping[str, Sequence[object]], started: float
    ) -> Finished | Unfinished:
        """Raises: what the node raises."""
        spec, busy = calls.spec, thread_time()
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
        seconds, effort = perf_counter() - started, None if spec.serial else thread_time() - busy
        lengths = tuple(map(len, made))
        return Finished(key, Value.of(made), lengths, seconds, ui, blocked=blocked, effort=effort)

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
