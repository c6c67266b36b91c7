"""A prompt becomes ops. Reference and model nodes run here; value nodes become `Call`s.

A node whose inputs hang on a result that does not exist yet (a number that another node computes, a list of
unknown length) is lowered once that result is known: `Lowering.waiting` says for what, `advance` goes on.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace

from backend.errors import TesseraError
from backend.graph.keys import Unkeyable, content_key, value_key
from backend.graph.parse import Link, Prompt, PromptNode
from backend.node import NodeSpec
from backend.ops import Awaiting, Call, Op, Part, field_names
from backend.references import Ref
from backend.registry import Registry
from backend.types import DATA_WIRES, ClientId, JobKey, NodeId, OpKey

Items = tuple[object, ...]  # what one wire carries: values, or Refs to results
MISSING = object()
Known = Callable[[Ref], object]  # the value of a result, or MISSING
Lengths = Callable[[OpKey], tuple[int, ...] | None]  # items per output of a finished op, None before


class NodeRaised(TesseraError):
    """A node's own function failed while lowering. `cause` is what it raised."""

    code = "node_raised"

    def __init__(self, node: NodeId, class_type: str, cause: Exception, inputs: Mapping[str, object]) -> None:
        self.node, self.class_type, self.cause, self.inputs = node, class_type, cause, dict(inputs)
        super().__init__(f"Node {node} ({class_type}): {cause}")


@dataclass(frozen=True, slots=True)
class Submitter:
    """Whose job it is, and what hidden inputs say."""

    job: JobKey
    client: ClientId | None = None
    extra_pnginfo: object = None
    tokens: Mapping[str, object] = field(default_factory=dict)  # AUTH_TOKEN_COMFY_ORG and the like


@dataclass(frozen=True, slots=True)
class LoweredNode:
    """A node after lowering. key: equal for equal work; ops: what it added, inputs first.

    A reference node has no ops: it is done as soon as it is lowered.
    """

    id: NodeId
    spec: NodeSpec
    key: OpKey
    ops: tuple[OpKey, ...]


class Lowering:
    """One job on its way from prompt to ops.

    ops: every op so far, inputs first; nodes: every lowered node, in the order of lowering; targets: the ops
    of the outputs lowered so far; waiting: results needed to go on; asked: the ops that belong to no lowered
    node, and the node that asked for each.
    """

    def __init__(
        self,
        prompt: Prompt,
        outputs: Sequence[NodeId],
        registry: Registry,
        services: Mapping[type, object],
        submitter: Submitter,
    ) -> None:
        self.prompt, self.outputs = prompt, tuple(outputs)
        self.ops: dict[OpKey, Op[object]] = {}
        self.nodes: dict[NodeId, LoweredNode] = {}
        self.waiting: set[OpKey] = set()
        self.asked: dict[OpKey, NodeId] = {}
        self._registry, self._services, self._submitter = registry, services, submitter
        self._wires: dict[tuple[NodeId, int], Items | OpKey] = {}  # an OpKey: a list output not known yet
        self._pending = _in_order(prompt, self.outputs)

    @property
    def complete(self) -> bool:
        return not self._pending

    @property
    def targets(self) -> set[OpKey]:
        """Ops that must finish: the outputs' own, and what lowering waits for."""
        own = {key for out in self.outputs if out in self.nodes for key in self.nodes[out].ops}
        return own | self.waiting

    def advance(self, known: Known, lengths: Lengths) -> list[LoweredNode]:
        """Lower all that can be. Returns: the nodes lowered by this call. Raises: NodeRaised."""
        self.waiting.clear()
        done: list[LoweredNode] = []
        later: list[NodeId] = []
        for id in self._pending:
            lowered = self._lower(self.prompt.nodes[id], known, lengths)
            if lowered is None:
                later.append(id)
            else:
                self.nodes[id] = lowered
                done.append(lowered)
        self._pending = later
        return done

    def _lower(self, node: PromptNode, known: Known, lengths: Lengths) -> LoweredNode | None:
        spec = self._registry.find(node.class_type)
        if spec is None:
            raise NodeRaised(node.id, node.class_type, KeyError(f"no node class {node.class_type!r}"), {})
        wires = self._inputs(node, spec, lengths)
        if wires is None:
            return None
        if spec.kind == "value":
            return self._call(node, spec, wires)
        concrete = self._concrete(spec, wires, known)
        return None if concrete is None else self._run(node, spec, concrete)

    def _inputs(self, node: PromptNode, spec: NodeSpec, lengths: Lengths) -> dict[str, Items] | None:
        """Each input's items, or None where a source is not lowered or of unknown length."""
        wires: dict[str, Items] = {}
        for name, value in node.inputs.items():
            if isinstance(value, Link):
                items = self._source(value, lengths)
                if items is None:
                    return None
                wires[name] = items
            elif spec.input(name) is not None:
                wires[name] = (value,)
        return wires

    def _source(self, link: Link, lengths: Lengths) -> Items | None:
        wire = self._wires.get((link.node, link.slot))
        if not isinstance(wire, str):
            return wire
        count = lengths(wire)
        if count is None:
            self.waiting.add(wire)
            return None
        return tuple(Ref(wire, link.slot, i) for i in range(count[link.slot]))

    def _call(self, node: PromptNode, spec: NodeSpec, wires: Mapping[str, Items]) -> LoweredNode:
        hidden = {name: self._hidden(kind, node.id) for name, kind in spec.hidden.items()}
        call = Call(spec.name, wires, node.id, self._submitter.client, hidden, self._salt(node, spec, wires))
        try:
            key = content_key(call)
        except Unkeyable:
            key = value_key("only", self._submitter.job, node.id)
        self.ops.setdefault(key, call)
        calls = 1 if spec.input_is_list else max((len(items) for items in wires.values()), default=1)
        for slot, output in enumerate(spec.outputs):
            self._wires[node.id, slot] = (
                key if output.is_list else tuple(Ref(key, slot, i) for i in range(calls))
            )
        return LoweredNode(node.id, spec, key, (key,))

    def _salt(self, node: PromptNode, spec: NodeSpec, wires: Mapping[str, Items]) -> tuple[object, ...]:
        """What makes equal inputs different work: a fingerprint, the client of an output, the node's id."""
        salt: list[object] = []
        if spec.fingerprint is not None:
            literals = {n: None if isinstance(v[0], Ref) else v[0] for n, v in wires.items() if v}
            try:
                salt.append(spec.fingerprint(**literals, **self._served(spec)))
            except Exception as error:  # a node's own code: what it raises is that node's error
                raise NodeRaised(node.id, spec.name, error, literals) from error
        if spec.output_node:
            salt.append(self._submitter.client)
        if spec.per_id or "UNIQUE_ID" in spec.hidden.values():
            salt.append(node.id)
        return tuple(salt)

    def _hidden(self, kind: str, id: NodeId) -> object:
        match kind:
            case "PROMPT" | "DYNPROMPT":
                return self.prompt.to_json()
            case "EXTRA_PNGINFO":
                return self._submitter.extra_pnginfo
            case "UNIQUE_ID":
                return id
            case _:
                return self._submitter.tokens.get(kind)

    def _served(self, spec: NodeSpec) -> dict[str, object]:
        return {name: self._services[kind] for name, kind in spec.services.items()}

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
        return None if any(v is MISSING for values in concrete.values() for v in values) else concrete

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
        served = self._served(spec)
        for i in range(max((len(items) for items in wires.values()), default=1)):
            arguments = {name: items[min(i, len(items) - 1)] for name, items in wires.items()}
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
        return LoweredNode(node.id, spec, key, tuple(added))


def flatten(value: object, ops: dict[OpKey, Op[object]]) -> object:
    """`value` with every op in it (nested ones too) replaced by a Ref; the ops go to `ops`, inputs first."""
    if isinstance(value, Part):
        ref = flatten(value.op, ops)
        assert isinstance(ref, Ref)
        return Ref(ref.key, value.slot)
    if isinstance(value, Op):
        flat = _with_fields(value, ops)
        assert isinstance(flat, Op)
        key = content_key(flat)
        ops.setdefault(key, flat)
        return Ref(key)
    if isinstance(value, tuple):
        items = tuple(flatten(item, ops) for item in value)
        return value if all(a is b for a, b in zip(items, value, strict=True)) else items
    if is_dataclass(value) and not isinstance(value, type | Ref):
        return _with_fields(value, ops)
    return value


def inputs_of(op: Op[object]) -> tuple[OpKey, ...]:
    """The keys that a flat op refers to, each once, in order."""
    found: dict[OpKey, None] = {}
    if isinstance(op, Call):
        for items in op.inputs.values():
            found.update((item.key, None) for item in items if isinstance(item, Ref))
    else:
        _collect(op, found)
    return tuple(found)


def _collect(value: object, found: dict[OpKey, None]) -> None:
    if isinstance(value, Ref):
        found[value.key] = None
    elif isinstance(value, tuple):
        for item in value:
            _collect(item, found)
    elif is_dataclass(value) and not isinstance(value, type):
        for name in field_names(value):
            _collect(getattr(value, name), found)


def _with_fields(value: object, ops: dict[OpKey, Op[object]]) -> object:
    changed = {}
    for name in field_names(value):
        old = getattr(value, name)
        new = flatten(old, ops)
        if new is not old:
            changed[name] = new
    return replace(value, **changed) if changed else value  # type: ignore[type-var]  # a dataclass, tested above


def _in_order(prompt: Prompt, outputs: Sequence[NodeId]) -> list[NodeId]:
    """All nodes that the outputs reach, sources first."""
    order: dict[NodeId, None] = {}
    entered: set[NodeId] = set()
    stack = [(id, False) for id in reversed(outputs)]
    while stack:
        id, sources_done = stack.pop()
        if sources_done:
            order[id] = None
        elif id not in entered:
            entered.add(id)
            stack.append((id, True))
            links = [v for v in prompt.nodes[id].inputs.values() if isinstance(v, Link)]
            stack.extend((link.node, False) for link in reversed(links) if link.node not in entered)
    return list(order)
