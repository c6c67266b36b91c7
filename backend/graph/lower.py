"""A prompt becomes ops. Reference and model nodes run here; value nodes become `Call`s.

A node whose inputs hang on a result that does not exist yet (a number that another node computes, a list of
unknown length, anything of a third-party node) is lowered once that result is known: `Lowering.waiting` says
for what, `advance` goes on. `demand` and `expand` take in what a call answered that isn't a result: that it
needs more of its lazy inputs, or that other nodes run in its place.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain

from backend.errors import TesseraError
from backend.graph.call_keys import CallKeys, served
from backend.graph.dynamic import DynamicPrompt, renamed_id
from backend.graph.expansion import Expansion, add_rows
from backend.graph.flatten import refs_in
from backend.graph.keys import Unkeyable, content_key, value_key
from backend.graph.lowered import (
    BadDemand,
    Composed,
    Items,
    Known,
    Lengths,
    LoweredNode,
    NodeRaised,
    Submitter,
)
from backend.graph.order import circle, in_order, linked
from backend.graph.parse import Link, Prompt, PromptNode
from backend.graph.referring import run
from backend.graph.wires import Inputs, Wires, resolved
from backend.node import NodeSpec
from backend.ops import Awaiting, Call, Expanded, Needs, Op
from backend.references import Ref
from backend.registry import Registry
from backend.types import DATA_WIRES, Blocked, NodeId, OpKey
from backend.values import frozen

_DEEPEST = 20  # lazy inputs of lazy inputs that are looked up in the cache before anything runs


@frozen
class _Wait:
    """A node that waits for some of its sources. lowered: which of them are; early: what it will read."""

    sources: list[NodeId]
    lowered: list[bool]
    early: list[OpKey]


class Lowering:
    """One job on its way from prompt to ops.

    ops: every op so far, inputs first; nodes: every lowered node, in the order of lowering; targets: the ops
    of the outputs lowered so far; waiting: results needed to go on; asked: the ops that belong to no lowered
    node, and the node that asked for each; composed: what the last `advance` made of expanded nodes.
    """

    def __init__(
        self,
        prompt: Prompt,
        outputs: Sequence[NodeId],
        registry: Registry,
        services: Mapping[type, object],
        submitter: Submitter,
        fingerprints: Mapping[NodeId, object] | None = None,
    ) -> None:
        self.prompt, self.outputs = prompt, tuple(outputs)
        self.dynamic = DynamicPrompt(prompt, submitter.prompt)
        self.inner_outputs: list[NodeId] = []
        self.ops: dict[OpKey, Op[object]] = {}
        self.nodes: dict[NodeId, LoweredNode] = {}
        self.waiting: set[OpKey] = set()
        self.asked: dict[OpKey, NodeId] = {}
        self.composed: list[Composed] = []
        self.composing: set[OpKey] = set()
        self._registry, self._services, self._submitter = registry, services, submitter
        self._wires = Wires()
        self._keys = CallKeys(self.dynamic, self._spec, services, submitter, fingerprints or {})
        self._early: set[OpKey] = set()  # of nodes that wait: what else they will read
        self._demanded: dict[NodeId, set[str]] = {}
        self._staged: dict[OpKey, OpKey] = {}  # a lazy node's key -> the op that asks and runs it
        self._expanding: dict[NodeId, Expansion] = {}
        self._waits: dict[NodeId, _Wait] = {}
        self._trying: set[NodeId] = set()  # lazy sources that are being looked up in the cache
        self._pending = in_order(prompt.nodes, self.outputs, self._strict)

    @property
    def complete(self) -> bool:
        return not self._pending and not self._expanding

    @property
    def stuck(self) -> tuple[NodeId, ...]:
        """Nodes that wait for each other, where nothing else is waited for; () as long as something is."""
        if self.complete or self.waiting:
            return ()
        left = [*self._pending, *self._expanding]
        return circle(self.dynamic.nodes, left, self._awaited) or tuple(left[:1])

    @property
    def targets(self) -> set[OpKey]:
        """Ops that must finish: the outputs' own, and what lowering waits for."""
        ends = (*self.outputs, *self.inner_outputs) if self.inner_outputs else self.outputs
        own = {key for out in ends if out in self.nodes for key in self.nodes[out].ops}
        wanted = own | self.waiting | self._early
        return wanted - self.composing if self.composing else wanted

    def ordered(self, keys: Mapping[OpKey, Op[object]]) -> dict[OpKey, Op[object]]:
        """Ops in the order of lowering, in which inputs come first."""
        return {key: op for key, op in self.ops.items() if key in keys} if len(keys) > 1 else dict(keys)

    def advance(self, known: Known, lengths: Lengths) -> list[LoweredNode]:
        """Lower all that can be. Returns: the nodes lowered by this call. Raises: NodeRaised."""
        self.waiting.clear()
        self._early.clear()
        self.composed = []
        done: list[LoweredNode] = []
        later: list[NodeId] = []
        before = len(self.nodes)
        for id in self._pending:
            if id in self.nodes:
                continue  # it came with a lazy input whose results were all there
            if self._waits and self._waits_still(id):
                later.append(id)
                continue
            lowered = self._lower(self.dynamic.nodes[id], known, lengths)
            if lowered is None:
                later.append(id)
            else:
                self.nodes[id] = lowered
                done.append(lowered)
        self._pending = later
        if len(self.nodes) - before > len(done):
            done = list(self.nodes.values())[before:]
        if self._expanding:
            self._compose_all(known, lengths)
        return done

    # -- one node ----------------------------------------------------------------------------------

    def _lower(self, node: PromptNode, known: Known, lengths: Lengths) -> LoweredNode | None:
        spec = self._spec(node)
        inputs = self._inputs(node, spec, known, lengths)
        if not inputs.whole or (inputs.unknown and spec.kind != "value"):
            self._hold(inputs)
            self._note_wait(node, inputs)
            return None
        if spec.kind == "value":
            return self._call(node, spec, inputs, lengths)
        concrete = self._concrete(spec, inputs.items, known)
        return None if concrete is None else self._run(node, spec, concrete)

    def _inputs(self, node: PromptNode, spec: NodeSpec, known: Known, lengths: Lengths) -> Inputs:
        """Each input's items."""
        inputs = Inputs()
        demanded = self._demanded.get(node.id, ()) if spec.lazy_names else ()
        for name, value in node.inputs.items():
            if not isinstance(value, Link):
                if spec.input(name) is not None:
                    inputs.items[name] = (value,)
                continue
            lazy = bool(spec.lazy_names) and name in spec.lazy_names and spec.kind == "value"
            if lazy and name not in demanded and not self._from_cache(value.node, known, lengths):
                inputs.items[name] = (None,)
                inputs.missing.append(name)
                continue
            items, unknown = self._wires.source(value, known, lengths)
            if unknown is not None:
                inputs.unknown[unknown] = None
            if items is None:
                inputs.whole = False
            else:
                inputs.items[name] = items
            if spec.raw_names and name in spec.raw_names and items is not None:
                keys = (item.key for item in items if isinstance(item, Ref))
                inputs.unknown.update((key, None) for key in keys if lengths(key) is None)
                inputs.raw.append((name, items))
                inputs.items[name] = ([value.node, value.slot],)
        return inputs

    def _call(self, node: PromptNode, spec: NodeSpec, inputs: Inputs, lengths: Lengths) -> LoweredNode | None:
        items = inputs.items
        call = Call(
            spec.name,
            items,
            node.id,
            self._submitter.client,
            {name: self._submitter.hidden(kind, node.id, self.dynamic) for name, kind in spec.hidden.items()},
            (*self._keys.salt(node, spec), *inputs.raw),
            tuple(inputs.missing),
            job=self._submitter.id,
        )
        if spec.lazy_names:
            key, own = self._keys.of_lazy(node, spec, call)
        else:
            key = own = self._keys.of_call(node, call)
        if inputs.unknown and lengths(key) is None:
            self._hold(inputs)
            return None
        if own != key and lengths(key) is None:
            self._staged[key] = own
            call = replace(call, result=key)
        else:
            own = key
        self.ops.setdefault(own, call)
        blocked = Blocked in map(type, chain.from_iterable(items.values()))
        self._wires.put_call(node.id, spec, key, items, spec.dynamic or blocked or bool(spec.lazy_names))
        return LoweredNode(node.id, spec, key, (own,))

    def _concrete(self, spec: NodeSpec, inputs: Mapping[str, Items], known: Known) -> dict[str, Items] | None:
        """The items with results in place of Refs, but for those that ops take as they are. None: some of
        them are not there yet.
        """
        concrete: dict[str, Items] = {}
        complete = True
        for name, items in inputs.items():
            declared = spec.input(name)
            if declared is not None and declared.type in DATA_WIRES:
                concrete[name] = items
                continue
            concrete[name], absent = resolved(items, known)
            self.waiting.update(absent)
            complete = complete and not absent
        if not complete:
            self._early.update(refs_in(inputs.values()))
        return concrete if complete else None

    def _run(self, node: PromptNode, spec: NodeSpec, inputs: Mapping[str, Items]) -> LoweredNode | None:
        """Run a reference or model node. None: it waits for an op."""
        try:
            returned = run(node, spec, inputs, served(spec, self._services))
        except Awaiting as awaiting:
            self._ask(node.id, awaiting.ops)
            return None
        for slot, items in enumerate(returned.columns):
            self._wires.put(node.id, slot, items)
        self.ops.update({key: op for key, op in returned.ops.items() if key not in self.ops})
        try:
            key = value_key(spec.name, inputs)
        except Unkeyable:
            key = value_key("only", self._submitter.job, node.id)
        return LoweredNode(node.id, spec, key, tuple(returned.ops), returned.blocked)

    def _ask(self, node: NodeId, ops: Sequence[Op[object]]) -> None:
        """Let ops run whose results a node needs before it can be lowered."""
        for op in ops:
            key = content_key(op)
            self.ops.setdefault(key, op)
            self.asked.setdefault(key, node)
            self.waiting.add(key)

    def _spec(self, node: PromptNode) -> NodeSpec:
        spec = self._registry.find(node.class_type)
        if spec is None:
            raise NodeRaised(node.id, node.class_type, KeyError(node.class_type), {})
        return spec

    # -- what a node waits for ---------------------------------------------------------------------

    def _strict(self, node: PromptNode) -> list[NodeId]:
        """The sources that a node can't do without: all but those of lazy inputs it hasn't asked for."""
        spec = self._registry.find(node.class_type)
        if spec is None or not spec.lazy_names or spec.kind != "value":
            return linked(node)
        lazy = spec.lazy_names - self._demanded.get(node.id, set())
        return [v.node for name, v in node.inputs.items() if isinstance(v, Link) and name not in lazy]

    def _awaited(self, node: PromptNode) -> list[NodeId]:
        """What a node that is not done waits for: its sources, or the nodes that run in its place."""
        expansion = self._expanding.get(node.id)
        if expansion is None:
            return self._strict(node)
        return [link.node for link in expansion.links()]

    def _waits_still(self, id: NodeId) -> bool:
        """Whether a node waits for others to be lowered, none of which has been since it was looked at."""
        wait = self._waits.get(id)
        if wait is None or wait.lowered != [source in self.nodes for source in wait.sources]:
            return False
        self._early.update(wait.early)
        return True

    def _note_wait(self, node: PromptNode, inputs: Inputs) -> None:
        """Remember for what a node waits, if it is only that other nodes are lowered."""
        self._waits.pop(node.id, None)
        if not inputs.whole and not inputs.unknown:
            sources = self._strict(node)
            early = list(refs_in(inputs.items.values()))
            self._waits[node.id] = _Wait(sources, [source in self.nodes for source in sources], early)

    def _hold(self, inputs: Inputs) -> None:
        """The node waits. What else it will read may be made meanwhile."""
        for key in inputs.unknown:
            self._await(key)
        self._early.update(key for key in refs_in(inputs.items.values()) if key not in inputs.unknown)

    def _await(self, key: OpKey) -> None:
        if key not in self.composing:
            self.waiting.add(self._staged.get(key, key))

    def _from_cache(self, id: NodeId, known: Known, lengths: Lengths) -> bool:
        """Whether a lazy input's source is there without running anything; it is lowered then."""
        if id in self.nodes:
            return all(lengths(key) is not None for key in self.nodes[id].ops)
        if id in self._trying or len(self._trying) == _DEEPEST:
            return False
        self._trying.add(id)
        try:
            return self._lowered_from_cache(id, known, lengths)
        finally:
            self._trying.discard(id)

    def _lowered_from_cache(self, id: NodeId, known: Known, lengths: Lengths) -> bool:
        waiting, early, taken = set(self.waiting), set(self._early), list[NodeId]()
        for each in in_order(self.dynamic.nodes, [id], self._strict, self.nodes):
            try:
                lowered = self._lower(self.dynamic.nodes[each], known, lengths)
            except NodeRaised:
                lowered = None  # it is told once the node is really wanted
            if lowered is not None:
                self.nodes[each] = lowered
                taken.append(each)
            if lowered is None or any(lengths(key) is None for key in lowered.ops):
                for undone in taken:
                    self._withdraw(undone)
                self.waiting, self._early = waiting, early
                return False
        return True

    # -- answers of calls that are no results ------------------------------------------------------

    def demand(self, id: NodeId, needs: Needs) -> None:
        """A node wants these lazy inputs: it is lowered once more, after their sources.

        Raises: NodeRaised.
        """
        node = self.dynamic.nodes[id]
        for name in needs.names:
            value = node.inputs.get(name)
            if not isinstance(value, Link):
                problem = "that value is a constant" if name in node.inputs else "it has no such input"
                known = {n: None if isinstance(v, Link) else v for n, v in node.inputs.items()}
                raise NodeRaised(id, node.class_type, BadDemand(id, name, problem), known)
        self._demanded.setdefault(id, set()).update(needs.names)
        self._withdraw(id)
        self._enter([*(node.inputs[name].node for name in needs.names), id])  # type: ignore[attr-defined]  # links

    def settle(self, id: NodeId, key: OpKey) -> None:
        """The node's result is there, under its own key."""
        self._staged.pop(key, None)
        self.nodes[id] = replace(self.nodes[id], key=key, ops=(key,))

    def expand(self, id: NodeId, answer: Expanded) -> None:
        """Take in the nodes that run in place of `id`. Raises: NodeRaised."""
        node, lowered = self.dynamic.nodes[id], self.nodes[id]
        key = lowered.key
        try:
            rows, added = add_rows(self.dynamic, id, answer)
            outputs = [inner.id for inner in added if self._spec(inner).output_node]
        except NodeRaised as error:  # a class that isn't there
            raise NodeRaised(id, node.class_type, error.cause, node.inputs) from error
        except (TesseraError, KeyError, TypeError) as error:  # the fragment is not what it should be
            raise NodeRaised(id, node.class_type, error, node.inputs) from error
        prints = answer.fingerprints.items()
        self._keys.prints.update((renamed_id(name, answer.node, id), value) for name, value in prints)
        self.settle(id, key)
        self.composing.add(key)
        expansion = self._expanding[id] = Expansion(key, lowered.spec, rows)
        self.inner_outputs += outputs
        self._enter([*outputs, *(link.node for link in expansion.links())])

    def _enter(self, ends: Iterable[NodeId]) -> None:
        """Nodes that must be lowered now, with all that they depend on, before what waits already."""
        order = in_order(self.dynamic.nodes, ends, self._strict, self.nodes)
        entered = set(order)
        self._pending = [*order, *(id for id in self._pending if id not in entered)]

    def _withdraw(self, id: NodeId) -> None:
        """Undo the lowering of a node."""
        lowered = self.nodes.pop(id)
        self._staged.pop(lowered.key, None)
        self._wires.drop(id, lowered.spec)

    def _compose_all(self, known: Known, lengths: Lengths) -> None:
        for id, expansion in list(self._expanding.items()):
            outputs = expansion.compose(lambda link: self._linked_items(link, known, lengths))
            if outputs is not None:
                del self._expanding[id]
                self.composing.discard(expansion.key)
                self.composed.append(Composed(id, expansion.key, outputs))

    def _linked_items(self, link: Link, known: Known, lengths: Lengths) -> Items | None:
        items, unknown = self._wires.source(link, known, lengths)
        if unknown is not None:
            self._await(unknown)
        if items is None or unknown is not None:
            return None
        values, absent = resolved(items, known)
        self.waiting.update(absent)
        return None if absent else values
