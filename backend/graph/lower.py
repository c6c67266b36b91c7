"""A prompt becomes ops. Reference and model nodes run here; value nodes become `Call`s.

A node whose inputs hang on a result that does not exist yet (a number that another node computes, a list of
unknown length, anything of a third-party node) is lowered once that result is known: `Lowering.waiting` says
for what, `advance` goes on. `demand` and `expand` take in what a call answered that isn't a result: that it
needs more of its lazy inputs, or that other nodes run in its place.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from backend.errors import TesseraError
from backend.graph.dynamic import DynamicPrompt, NodeNotFound, as_link, renamed, renamed_id
from backend.graph.flatten import flatten, inputs_of, refs_in
from backend.graph.keys import Unkeyable, content_key, value_key
from backend.graph.order import circle, in_order, linked
from backend.graph.parse import Link, Prompt, PromptNode
from backend.node import NodeSpec
from backend.ops import Awaiting, Call, Expanded, Needs, Op, Row
from backend.references import Ref
from backend.registry import Registry
from backend.types import DATA_WIRES, Blocked, ClientId, JobId, JobKey, NodeId, OpKey

__all__ = ["MISSING", "Lowering", "NodeRaised", "Submitter", "inputs_of"]

Items = tuple[object, ...]  # what one wire carries: values, or Refs to results
MISSING = object()
_NO_JOB = JobId("")
_DEEPEST = 20  # lazy inputs of lazy inputs that are looked up in the cache before anything runs
Known = Callable[[Ref], object]  # the value of a result, or MISSING
Lengths = Callable[[OpKey], tuple[int, ...] | None]  # items per output of a finished op, None before
log = logging.getLogger(__name__)


class NodeRaised(TesseraError):
    """A node's own function failed while lowering. `cause` is what it raised."""

    code = "node_raised"

    def __init__(self, node: NodeId, class_type: str, cause: Exception, inputs: Mapping[str, object]) -> None:
        self.node, self.class_type, self.cause, self.inputs = node, class_type, cause, dict(inputs)
        super().__init__(f"Node {node} ({class_type}): {cause}")


class BadDemand(TesseraError):
    """A node asked for an input that no other node could make."""

    code = "bad_lazy_input"
    shown_as: ClassVar[str] = "comfy_execution.graph.NodeInputError"  # the type that clients know

    def __init__(self, node: NodeId, name: str, problem: str) -> None:
        self.node, self.name = node, name
        super().__init__(f"Node {node} says it needs input {name}, but {problem}")


@dataclass(frozen=True, slots=True)
class Submitter:
    """Whose job it is, and what hidden inputs say."""

    job: JobKey
    client: ClientId | None = None
    extra_pnginfo: object = None
    tokens: Mapping[str, object] = field(default_factory=dict)  # AUTH_TOKEN_COMFY_ORG and the like
    id: JobId = _NO_JOB


@dataclass(frozen=True, slots=True)
class LoweredNode:
    """A node after lowering. key: equal for equal work; ops: what it added, inputs first.

    A reference node has no ops: it is done as soon as it is lowered. blocked: messages of blockers that kept
    it from running.
    """

    id: NodeId
    spec: NodeSpec
    key: OpKey
    ops: tuple[OpKey, ...]
    blocked: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Composed:
    """An expanded node's result, made of those of the nodes that ran in its place."""

    id: NodeId
    key: OpKey
    outputs: tuple[Items, ...]


@dataclass(frozen=True, slots=True)
class _Expansion:
    key: OpKey
    spec: NodeSpec
    rows: tuple[Row, ...]


@dataclass(slots=True)
class _Wires:
    """A node's inputs. unknown: results that must exist before it can be lowered; items are a guess then.

    missing: lazy inputs without a value; raw: what stands behind links that are handed over as such; whole:
    whether every input has items, guessed or not.
    """

    items: dict[str, Items] = field(default_factory=dict)
    unknown: dict[OpKey, None] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    raw: list[tuple[str, Items]] = field(default_factory=list)
    whole: bool = True


@dataclass(frozen=True, slots=True)
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
        self.dynamic = DynamicPrompt(prompt)
        self.inner_outputs: list[NodeId] = []
        self.ops: dict[OpKey, Op[object]] = {}
        self.nodes: dict[NodeId, LoweredNode] = {}
        self.waiting: set[OpKey] = set()
        self.asked: dict[OpKey, NodeId] = {}
        self.composed: list[Composed] = []
        self.composing: set[OpKey] = set()
        self._registry, self._services, self._submitter = registry, services, submitter
        self._wires: dict[tuple[NodeId, int], Items | OpKey] = {}  # an OpKey: a list output not known yet
        self._guesses: dict[tuple[NodeId, int], Items] = {}
        self._early: set[OpKey] = set()  # of nodes that wait: what else they will read
        self._prints: dict[NodeId, object] = dict(fingerprints or {})
        self._signatures: dict[NodeId, OpKey] = {}
        self._demanded: dict[NodeId, set[str]] = {}
        self._staged: dict[OpKey, OpKey] = {}  # a lazy node's key -> the op that asks and runs it
        self._expanding: dict[NodeId, _Expansion] = {}
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
            if self._waits_still(id):
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
                raise NodeRaised(id, node.class_type, BadDemand(id, name, problem), node.inputs)
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
            rows, added = self._rows(id, answer)
        except NodeRaised as error:  # a class that isn't there
            raise NodeRaised(id, node.class_type, error.cause, node.inputs) from error
        except (TesseraError, KeyError, TypeError) as error:  # the fragment is not what it should be
            raise NodeRaised(id, node.class_type, error, node.inputs) from error
        self.settle(id, key)
        self.composing.add(key)
        self._expanding[id] = _Expansion(key, lowered.spec, rows)
        outputs = [n.id for n in added if self._spec(n).output_node]
        self.inner_outputs += outputs
        links = [link.node for row in rows if row.nodes for v in row.values if (link := as_link(v))]
        self._enter([*outputs, *links])

    def _rows(self, id: NodeId, answer: Expanded) -> tuple[tuple[Row, ...], list[PromptNode]]:
        """Add the fragments to the prompt. Raises: what is wrong with them."""
        rows: list[Row] = []
        added: list[PromptNode] = []
        for row in answer.rows:
            if row.nodes is None:
                rows.append(row)
                continue
            nodes = renamed(row.nodes, answer.node, id)
            added += self.dynamic.add(id, nodes)
            values = [
                [renamed_id(link.node, answer.node, id), link.slot] if (link := as_link(value)) else value
                for value in row.values
            ]
            rows.append(Row(tuple(values), row.nodes))
        for name, value in answer.fingerprints.items():
            self._prints[renamed_id(name, answer.node, id)] = value
        for node in added:
            self._spec(node)
        ends = [link.node for row in rows if row.nodes for v in row.values if (link := as_link(v))]
        for source in [*ends, *(source for node in added for source in linked(node))]:
            if source not in self.dynamic.nodes:
                raise NodeNotFound(source)
        return tuple(rows), added

    def _enter(self, ends: Iterable[NodeId]) -> None:
        """Nodes that must be lowered now, with all that they depend on, before what waits already."""
        order = in_order(self.dynamic.nodes, ends, self._strict, self.nodes)
        entered = set(order)
        self._pending = [*order, *(id for id in self._pending if id not in entered)]

    def _withdraw(self, id: NodeId) -> None:
        """Undo the lowering of a node."""
        lowered = self.nodes.pop(id)
        self._staged.pop(lowered.key, None)
        for slot in range(len(lowered.spec.outputs)):
            self._wires.pop((id, slot), None)
            self._guesses.pop((id, slot), None)

    def _compose_all(self, known: Known, lengths: Lengths) -> None:
        for id, expansion in list(self._expanding.items()):
            outputs = self._compose(expansion, known, lengths)
            if outputs is not None:
                del self._expanding[id]
                self.composing.discard(expansion.key)
                self.composed.append(Composed(id, expansion.key, outputs))

    def _compose(self, expansion: _Expansion, known: Known, lengths: Lengths) -> tuple[Items, ...] | None:
        """Each output's items over all rows; None where an inner result is not there yet."""
        columns: list[list[object]] = [[] for _ in expansion.spec.outputs]
        complete = True
        for row in expansion.rows:
            for column, output, value in zip(columns, expansion.spec.outputs, row.values, strict=False):
                link = as_link(value) if row.nodes is not None else None
                items = (value,) if link is None else self._linked_items(link, known, lengths)
                if items is None:
                    complete = False
                elif output.is_list and len(items) == 1 and isinstance(items[0], (list, tuple)):
                    column.extend(items[0])
                else:
                    column.extend(items)
        return tuple(map(tuple, columns)) if complete else None

    def _linked_items(self, link: Link, known: Known, lengths: Lengths) -> Items | None:
        items, unknown = self._source(link, known, lengths)
        if unknown is not None:
            self._await(unknown)
        if items is None or unknown is not None:
            return None
        values = tuple(known(item) if isinstance(item, Ref) else item for item in items)
        absent = [r.key for r, v in zip(items, values, strict=True) if v is MISSING and isinstance(r, Ref)]
        self.waiting.update(absent)
        return None if absent else values

    # -- one node ----------------------------------------------------------------------------------

    def _spec(self, node: PromptNode) -> NodeSpec:
        spec = self._registry.find(node.class_type)
        if spec is None:
            raise NodeRaised(node.id, node.class_type, KeyError(node.class_type), {})
        return spec

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
        rows = [row for row in expansion.rows if row.nodes is not None]
        return [link.node for row in rows for value in row.values if (link := as_link(value))]

    def _lower(self, node: PromptNode, known: Known, lengths: Lengths) -> LoweredNode | None:
        spec = self._spec(node)
        wires = self._inputs(node, spec, known, lengths)
        if not wires.whole or (wires.unknown and spec.kind != "value"):
            self._hold(wires)
            self._note_wait(node, wires)
            return None
        if spec.kind == "value":
            return self._call(node, spec, wires, lengths)
        concrete = self._concrete(spec, wires.items, known)
        return None if concrete is None else self._run(node, spec, concrete)

    def _waits_still(self, id: NodeId) -> bool:
        """Whether a node waits for others to be lowered, none of which has been since it was looked at."""
        wait = self._waits.get(id)
        if wait is None or wait.lowered != [source in self.nodes for source in wait.sources]:
            return False
        self._early.update(wait.early)
        return True

    def _note_wait(self, node: PromptNode, wires: _Wires) -> None:
        """Remember for what a node waits, if it is only that other nodes are lowered."""
        self._waits.pop(node.id, None)
        if not wires.whole and not wires.unknown:
            sources = self._strict(node)
            early = list(refs_in(wires.items.values()))
            self._waits[node.id] = _Wait(sources, [source in self.nodes for source in sources], early)

    def _hold(self, wires: _Wires) -> None:
        """The node waits. What else it will read may be made meanwhile."""
        for key in wires.unknown:
            self._await(key)
        self._early.update(key for key in refs_in(wires.items.values()) if key not in wires.unknown)

    def _await(self, key: OpKey) -> None:
        if key not in self.composing:
            self.waiting.add(self._staged.get(key, key))

    def _inputs(self, node: PromptNode, spec: NodeSpec, known: Known, lengths: Lengths) -> _Wires:
        """Each input's items."""
        wires = _Wires()
        demanded = self._demanded.get(node.id, ()) if spec.lazy_names else ()
        for name, value in node.inputs.items():
            if not isinstance(value, Link):
                if spec.input(name) is not None:
                    wires.items[name] = (value,)
                continue
            lazy = bool(spec.lazy_names) and name in spec.lazy_names and spec.kind == "value"
            if lazy and name not in demanded and not self._from_cache(value.node, known, lengths):
                wires.items[name] = (None,)
                wires.missing.append(name)
                continue
            items, unknown = self._source(value, known, lengths)
            if unknown is not None:
                wires.unknown[unknown] = None
            if items is None:
                wires.whole = False
            else:
                wires.items[name] = items
            if spec.raw_names and name in spec.raw_names and items is not None:
                keys = (item.key for item in items if isinstance(item, Ref))
                wires.unknown.update((key, None) for key in keys if lengths(key) is None)
                wires.raw.append((name, items))
                wires.items[name] = ([value.node, value.slot],)
        return wires

    def _source(self, link: Link, known: Known, lengths: Lengths) -> tuple[Items | None, OpKey | None]:
        """A link's items (None: not lowered, or of unknown length), and the result that must exist first.

        Where that one doesn't exist yet, items are what they will be unless it blocks or expands.
        """
        wire = self._wires.get((link.node, link.slot))
        if not isinstance(wire, str):
            return wire, None
        count = lengths(wire)
        if count is None:
            return self._guesses.get((link.node, link.slot)), wire
        if link.slot >= len(count):
            return (), None
        refs = tuple(Ref(wire, link.slot, i) for i in range(count[link.slot]))
        if (link.node, link.slot) in self._guesses:  # no plain list: it may have been blocked
            return tuple(v if isinstance(v := known(ref), Blocked) else ref for ref in refs), None
        return refs, None

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

    # -- value nodes -------------------------------------------------------------------------------

    def _call(self, node: PromptNode, spec: NodeSpec, wires: _Wires, lengths: Lengths) -> LoweredNode | None:
        items = wires.items
        call = Call(
            spec.name,
            items,
            node.id,
            self._submitter.client,
            {name: self._hidden(kind, node.id) for name, kind in spec.hidden.items()},
            (*self._salt(node, spec), *wires.raw),
            tuple(wires.missing),
            job=self._submitter.id,
        )
        if spec.lazy_names:
            key, own = self._lazy_keys(node, spec, call)
        else:
            key = own = self._call_key(node, call)
        if wires.unknown and lengths(key) is None:
            self._hold(wires)
            return None
        if own != key and lengths(key) is None:
            self._staged[key] = own
            call = replace(call, result=key)
        else:
            own = key
        self.ops.setdefault(own, call)
        blocked = any(isinstance(item, Blocked) for values in items.values() for item in values)
        self._wire(node.id, spec, key, items, spec.dynamic or blocked or bool(spec.lazy_names))
        return LoweredNode(node.id, spec, key, (own,))

    def _wire(
        self, id: NodeId, spec: NodeSpec, key: OpKey, items: Mapping[str, Items], dynamic: bool
    ) -> None:
        """What the outputs of a call carry, so far as it is known before it has run."""
        calls = 1 if spec.input_is_list else max(1, max(map(len, items.values()), default=1))
        for slot, output in enumerate(spec.outputs):
            if output.is_list:
                self._wires[id, slot] = key
                if dynamic:
                    self._guesses[id, slot] = ()
                continue
            refs = tuple(Ref(key, slot, i) for i in range(calls))
            if dynamic:
                self._wires[id, slot], self._guesses[id, slot] = key, refs
            else:
                self._wires[id, slot] = refs

    def _call_key(self, node: PromptNode, call: Call) -> OpKey:
        try:
            return content_key(call)
        except Unkeyable:
            return value_key("only", self._submitter.job, node.id)

    def _lazy_keys(self, node: PromptNode, spec: NodeSpec, call: Call) -> tuple[OpKey, OpKey]:
        """The key of the node's result, which is the same whatever it asks for, and of this attempt at it."""
        named: dict[str, object] = dict(call.inputs)
        for name, value in node.inputs.items():
            if isinstance(value, Link) and name in spec.lazy_names:
                named[name] = ("source", self._signature(value.node), value.slot)
        try:
            key = value_key("lazy", spec.name, named, call.salt)
        except Unkeyable:
            key = value_key("only", self._submitter.job, node.id)
        return key, value_key(key, "without", call.missing)

    def _signature(self, id: NodeId) -> OpKey:
        """What a node is, with all that it depends on, whether it runs or not."""
        for each in in_order(self.dynamic.nodes, [id], linked, self._signatures):
            node = self.dynamic.nodes[each]
            inputs = {
                name: ("link", self._signatures.get(value.node, f"circle {value.node}"), value.slot)
                if isinstance(value, Link)
                else value
                for name, value in node.inputs.items()
            }
            try:
                salt = self._salt(node, self._spec(node))
                self._signatures[each] = value_key("node", node.class_type, inputs, salt)
            except Unkeyable:
                self._signatures[each] = value_key("only", self._submitter.job, each)
        return self._signatures[id]

    def _salt(self, node: PromptNode, spec: NodeSpec) -> tuple[object, ...]:
        """What makes equal inputs different work: a fingerprint, the client of an output, the node's id."""
        salt: list[object] = []
        if spec.fingerprint is not None:
            salt.append(self._fingerprint(node, spec))
        if spec.output_node:
            salt.append(self._submitter.client)
        if spec.per_id or "UNIQUE_ID" in spec.hidden.values():
            salt.append(node.id)
        if spec.dynamic:
            stray = {
                name: value
                for name, value in node.inputs.items()
                if not isinstance(value, Link) and spec.input(name) is None
            }
            salt += [stray] if stray else []
            if spec.raw_names or "DYNPROMPT" in spec.hidden.values():
                salt.append(tuple(in_order(self.dynamic.nodes, [node.id])))  # it may look at their ids
        return tuple(salt)

    def _fingerprint(self, node: PromptNode, spec: NodeSpec) -> object:
        """Of third-party nodes it was taken before; a built-in one's is taken here, once per job."""
        if node.id not in self._prints and spec.fingerprint is not None:
            literals = {
                name: None if isinstance(value, Link) else value
                for name, value in node.inputs.items()
                if spec.input(name) is not None
            }
            try:
                self._prints[node.id] = spec.fingerprint(**literals, **self._served(spec))
            except Exception as error:  # a node's own code: what can't be told is never equal
                log.warning("The fingerprint of node %s (%s) raised: %s", node.id, spec.name, error)
                self._prints[node.id] = float("nan")
        return self._prints.get(node.id)

    def _hidden(self, kind: str, id: NodeId) -> object:
        match kind:
            case "PROMPT":
                return self.dynamic.get_original_prompt()
            case "DYNPROMPT":
                return self.dynamic
            case "EXTRA_PNGINFO":
                return self._submitter.extra_pnginfo
            case "UNIQUE_ID":
                return id
            case _:
                return self._submitter.tokens.get(kind)

    def _served(self, spec: NodeSpec) -> dict[str, object]:
        return {name: self._services[kind] for name, kind in spec.services.items()}

    # -- reference and model nodes -------------------------------------------------------------------

    def _concrete(self, spec: NodeSpec, wires: Mapping[str, Items], known: Known) -> dict[str, Items] | None:
        """The items with results in place of Refs, but for those that ops take as they are."""
        concrete: dict[str, Items] = {}
        for name, items in wires.items():
            declared = spec.input(name)
            if declared is not None and declared.type in DATA_WIRES:
                concrete[name] = items
                continue
            values = tuple(known(item) if isinstance(item, Ref) else item for item in items)
            self.waiting.update(
                r.key for r, v in zip(items, values, strict=True) if v is MISSING and isinstance(r, Ref)
            )
            concrete[name] = values
        if not any(v is MISSING for values in concrete.values() for v in values):
            return concrete
        self._early.update(refs_in(wires.values()))
        return None

    def _ask(self, node: NodeId, ops: Sequence[Op[object]]) -> None:
        """Let ops run whose results a node needs before it can be lowered."""
        for op in ops:
            key = content_key(op)
            self.ops.setdefault(key, op)
            self.asked.setdefault(key, node)
            self.waiting.add(key)

    def _run(self, node: PromptNode, spec: NodeSpec, wires: Mapping[str, Items]) -> LoweredNode | None:
        """Run a reference or model node, once per item of its longest input. None: it waits for an op."""
        added: dict[OpKey, Op[object]] = {}
        columns: list[list[object]] = [[] for _ in spec.outputs]
        blocked: list[str] = []
        served = self._served(spec)
        for arguments in _calls(node, spec, wires):
            stop = next((value for value in arguments.values() if isinstance(value, Blocked)), None)
            if stop is not None:
                blocked += [stop.message] if stop.message is not None else []
                for column in columns:
                    column.append(Blocked())
                continue
            try:
                returned = spec.function(**arguments, **served)
            except Awaiting as awaiting:
                self._ask(node.id, awaiting.ops)
                return None
            except Exception as error:  # a node's own code: what it raises is that node's error
                raise NodeRaised(node.id, spec.name, error, arguments) from error
            values = returned if isinstance(returned, tuple) and len(spec.outputs) != 1 else (returned,)
            for column, value in zip(columns, values, strict=True):
                column.append(flatten(value, added))
        for slot, column in enumerate(columns):
            self._wires[node.id, slot] = tuple(column)
        self.ops.update({key: op for key, op in added.items() if key not in self.ops})
        try:
            key = value_key(spec.name, wires)
        except Unkeyable:
            key = value_key("only", self._submitter.job, node.id)
        return LoweredNode(node.id, spec, key, tuple(added), tuple(blocked))


def _calls(node: PromptNode, spec: NodeSpec, wires: Mapping[str, Items]) -> list[dict[str, object]]:
    """The arguments of each call of a reference or model node. Raises: NodeRaised."""
    longest = max(map(len, wires.values()), default=0)
    if longest == 0:
        return [{}]
    for name, items in wires.items():
        if not items:
            error = IndexError(f"Input {name!r} is an empty list, while others have up to {longest} items.")
            raise NodeRaised(node.id, spec.name, error, wires)
    return [{name: items[min(i, len(items) - 1)] for name, items in wires.items()} for i in range(longest)]
