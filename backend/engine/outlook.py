"""What ops will need, what they cost, and how much is left of their jobs behind each."""

from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from itertools import islice

from backend.components import Loadable, Weights
from backend.engine.ready import (
    Claim,
    adapters_of,
    controls_of,
    cost_of,
    first,
    guess_sizes,
    ready_op,
    weights_of,
)
from backend.graph.frontier import LiveGraph, LiveOp
from backend.ops import Call, Denoise, Op
from backend.registry import Registry
from backend.schedule.pool import ReadyOp
from backend.schedule.state import Pool
from backend.types import ComponentId, OpKey, Seconds

_INSTANT = 1e-6  # seconds
_ROUND = 1 << 20
_KEPT = 4096  # ops whose ControlNets are remembered


class Outlook:
    """Looks along the live graph. paths: seconds that are left of an op's job from it on, at best; loadable:
    the components that unfinished ops need.
    """

    def __init__(self, registry: Registry, graph: LiveGraph, pool: Pool) -> None:
        self.paths: dict[OpKey, Seconds] = {}
        self.loadable: dict[ComponentId, Loadable] = {}
        self._registry, self._graph, self._pool = registry, graph, pool
        self._controls: dict[OpKey, tuple[Weights, ...]] = {}  # that reach an op, or once did
        self._uses: Counter[ComponentId] = Counter()  # unfinished ops that need a LoRA
        self._came = 0  # calls that were ready so far

    def look_ahead(self, new: list[LiveOp]) -> None:
        """What ops will need and how much is left of their job behind each. new: inputs first."""
        for live in new:
            controls = dict.fromkeys(controls_of(live.op))
            for source in live.inputs:
                controls.update(dict.fromkeys(self._controls.get(source, ())))
            if controls:
                self._controls[live.key] = tuple(controls)
        for key in list(islice(self._controls, max(0, len(self._controls) - _KEPT))):
            if key not in self._graph:
                del self._controls[key]
        if all(isinstance(live.op, Call) for live in new):
            return  # nothing to load, and nothing known to be long
        profile, successors = self._pool.profile, self._graph.graph.successors
        for live in reversed(new):
            weights, adapters = self.needed(live), adapters_of(live.op)
            if weights:
                needed: list[Loadable] = [*weights, *adapters]
                guess_sizes(needed, profile)
                self.loadable.update((each.id, each) for each in needed)
                self._pool.want(tuple(w.id for w in weights), 1)
                self._uses.update(adapter.id for adapter in adapters)
            behind = max((self.paths.get(key, 0.0) for key in successors(live.key)), default=0.0)
            self.paths[live.key] = cost_of(live.op, profile, self._controls.get(live.key, ())) + behind

    def leave(self, live: LiveOp) -> None:
        """An op is out of the graph, and needs nothing any more."""
        self.paths.pop(live.key, None)
        if isinstance(live.op, Call):
            return
        for weights in self.needed(live):
            self._pool.want((weights.id,), -1)
            if weights.id not in self._pool.demand:
                self.loadable.pop(weights.id, None)
        for adapter in adapters_of(live.op):
            self._uses[adapter.id] -= 1
            if not self._uses[adapter.id]:
                del self._uses[adapter.id]
                self.loadable.pop(adapter.id, None)
        if isinstance(live.op, Denoise):  # what others made may be read again from their kept results
            self._controls.pop(live.key, None)

    def needed(self, live: LiveOp) -> list[Weights]:
        """What an op needs on its device: for a sampling run also the ControlNets of its conditions."""
        if isinstance(live.op, Denoise):
            return [*weights_of(live.op), *self._controls.get(live.key, ())]
        return weights_of(live.op)

    def ready_op(self, live: LiveOp, claims: Collection[Claim], now: Seconds) -> ReadyOp:
        """The op for `plan()`. claims: of the jobs that want it."""
        claim = first(claims, self._pool.shares)
        path = self.paths.get(live.key, 0.0) + self._turn(live)
        needed: list[Loadable] = [*self.needed(live), *adapters_of(live.op)]
        components = tuple([each.id for each in needed])
        ready = ready_op(live, components, claim, path, now, self._pool.profile)
        if live.key in self._controls and isinstance(live.op, Denoise):
            controls = self._controls[live.key]
            cost = cost_of(live.op, self._pool.profile, controls)
            ready = replace(ready, controls=tuple(w.id for w in controls), cost=cost)
        return replace(ready, serial=True) if self.is_serial(live.op) else ready

    def _turn(self, live: LiveOp) -> Seconds:
        """Next to nothing, for the order of a job's calls where nothing else decides it: outputs first, then
        what stands right before one, and so on; then in the order in which they came.
        """
        if not isinstance(live.op, Call):
            return 0.0
        self._came += 1
        return _INSTANT * (2 * self._nearness(live) + 1 - self._came % _ROUND / _ROUND)

    def _nearness(self, live: LiveOp) -> int:
        """3: an output; 2, 1: so many steps from one less; 0: farther off, or not known yet."""
        level, near = [live], 3
        while near and level:
            if any(self._is_output(each.op) for each in level):
                return near
            near -= 1
            level = [self._graph[key] for each in level for key in self._graph.graph.successors(each.key)]
        return 0

    def _is_output(self, op: Op[object]) -> bool:
        spec = self._registry.find(op.node) if isinstance(op, Call) else None
        return spec is not None and spec.output_node

    def is_serial(self, op: Op[object]) -> bool:
        spec = self._registry.find(op.node) if isinstance(op, Call) else None
        return spec is not None and spec.serial

    def is_coroutine(self, op: Op[object]) -> bool:
        spec = self._registry.find(op.node) if isinstance(op, Call) else None
        return spec is not None and spec.is_async
