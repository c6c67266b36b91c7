"""A prompt held against the registry: which of its outputs can run, and what is wrong with the rest."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from backend.errors import (
    GraphError,
    InvalidPrompt,
    NodeError,
    NodeErrors,
    NoOutputs,
    OutputsFailed,
    Refused,
)
from backend.graph.inputs import Checked, Fault, Settle, Surroundings, check
from backend.graph.parse import Link, Prompt, PromptNode
from backend.node import NodeSpec
from backend.registry import Registry
from backend.types import NodeId
from backend.values import frozen

_LONGEST_CYCLE = 20  # nodes that an error names: a cycle of thousands tells it to each of them
__all__ = ["NodeErrors", "Refused", "Validated", "validate"]


@frozen
class Validated:
    """prompt: values of what runs are coerced; outputs: the output nodes to run; errors: of the rest."""

    prompt: Prompt
    outputs: tuple[NodeId, ...]
    errors: Mapping[NodeId, NodeErrors]


def validate(
    prompt: Prompt,
    registry: Registry,
    services: Mapping[type, object],
    targets: Sequence[str] | None = None,
    settle: Settle | None = None,
) -> Validated:
    """Find what can run. Classes are looked up for all nodes; inputs are checked where an output needs them.

    targets: the only outputs wanted; None: all. settle: waits for what a validator that is a coroutine says.
    Raises: InvalidPrompt, NoOutputs, OutputsFailed (all Refused) where nothing can run.
    Source: contract, "POST /prompt" and "Which nodes run".
    """
    specs = {id: _spec(node, registry) for id, node in prompt.nodes.items()}
    wanted = None if targets is None else frozenset(targets)
    outputs = [id for id, s in specs.items() if s.output_node and (wanted is None or id in wanted)]
    if not outputs:
        raise NoOutputs
    walk = _walk(prompt, outputs)
    around = Surroundings(prompt, specs, services, settle=settle)
    checked = {id: check(prompt.nodes[id], specs[id], around) for id in walk.order}
    roots = frozenset(outputs)
    own: dict[NodeId, tuple[GraphError, ...]] = {}
    for id in walk.order:
        errors = _errors(id, checked[id], walk, id in roots, around)
        if errors:
            own[id] = errors
    good, node_errors = _outcome(prompt, specs, outputs, walk, own)
    if not good:
        raise OutputsFailed(_summary(outputs, own), node_errors)
    return Validated(_coerced(prompt, checked), good, node_errors)


def _spec(node: PromptNode, registry: Registry) -> NodeSpec:
    spec = registry.find(node.class_type)
    if spec is not None:
        return spec
    similar = registry.similar(node.class_type)
    hint = f" Did you mean {' or '.join(similar)}?" if similar else ""
    message = f"Cannot execute because node {node.class_type} does not exist.{hint}"
    raise InvalidPrompt(node.id, message, f"Node ID '#{node.id}'")


# -- the graph -----------------------------------------------------------------------------------


@frozen
class _Walk:
    """What the outputs reach. order: sources first; via: who led to a node first, and by which input.

    cycles: for a node on a cycle, the ids along it, the first again at the end.
    """

    order: list[NodeId]
    via: dict[NodeId, tuple[NodeId, str]]
    cycles: dict[NodeId, tuple[NodeId, ...]]


def _walk(prompt: Prompt, outputs: Iterable[NodeId]) -> _Walk:
    """Depth first, without recursion: a chain may be longer than Python's stack."""
    walk = _Walk([], {}, {})
    done: set[NodeId] = set()
    for output in outputs:
        if output in done:
            continue
        path = [output]
        open_at = {output: 0}  # a node being walked -> its place in `path`
        left = [iter(_links(prompt.nodes[output]))]
        while path:
            step = next(left[-1], None)
            if step is None:
                left.pop()
                id = path.pop()
                del open_at[id]
                done.add(id)
                walk.order.append(id)
                continue
            name, link = step
            if link.node in open_at:
                _note_cycle(walk, path[open_at[link.node] :])
            elif link.node in prompt.nodes and link.node not in done:
                walk.via[link.node] = (path[-1], name)
                open_at[link.node] = len(path)
                path.append(link.node)
                left.append(iter(_links(prompt.nodes[link.node])))
    return walk


def _note_cycle(walk: _Walk, along: list[NodeId]) -> None:
    """Each node keeps the first cycle that was found through it."""
    if all(id in walk.cycles for id in along):
        return
    closed = (*along, along[0])
    for id in along:
        walk.cycles.setdefault(id, closed)


def _links(node: PromptNode) -> list[tuple[str, Link]]:
    return [(name, value) for name, value in node.inputs.items() if isinstance(value, Link)]


# -- what is wrong -------------------------------------------------------------------------------


def _errors(
    id: NodeId, checked: Checked, walk: _Walk, is_output: bool, around: Surroundings
) -> tuple[GraphError, ...]:
    """Everything wrong with the node itself."""
    errors: list[GraphError] = [*checked.errors]
    errors += [
        _worded(id, fault, None if is_output else walk.via.get(id), around) for fault in checked.faults
    ]
    cycle = walk.cycles.get(id)
    if cycle is not None:
        more = [] if len(cycle) <= _LONGEST_CYCLE else [f"... ({len(cycle) - 1} nodes)"]
        shown = " <- ".join([*cycle[:_LONGEST_CYCLE], *more])
        details = f"{shown}: each of these nodes waits for the next. Remove one of the links"
        extra = {"nodes": list(cycle[:-1][:_LONGEST_CYCLE])}
        errors.append(
            NodeError("dependency_cycle", id, "Nodes depend on each other in a cycle", details, extra)
        )
    return tuple(errors)


def _worded(id: NodeId, fault: Fault, via: tuple[NodeId, str] | None, around: Surroundings) -> NodeError:
    """A fault as ComfyUI reports it: on an output, or on a node below one, with the link that leads there."""
    lines = list(fault.traceback)
    if via is None:
        extra: dict[str, object] = {"exception_type": fault.type, "traceback": lines}
        message = "Exception when validating node"
        return NodeError("exception_during_validation", id, message, fault.text, extra)
    consumer, name = via
    wants = around.specs[consumer].input(name)
    link = around.prompt.nodes[consumer].inputs[name]
    extra = {
        "input_name": name,
        "input_config": None if wants is None else around.config(wants),
        "exception_message": fault.text,
        "exception_type": fault.type,
        "traceback": lines,
        "linked_node": [id, link.slot if isinstance(link, Link) else 0],
    }
    message = "Exception when validating inner node"
    return NodeError("exception_during_inner_validation", id, message, fault.text, extra)


def _outcome(
    prompt: Prompt,
    specs: Mapping[NodeId, NodeSpec],
    outputs: Sequence[NodeId],
    walk: _Walk,
    own: Mapping[NodeId, tuple[GraphError, ...]],
) -> tuple[tuple[NodeId, ...], dict[NodeId, NodeErrors]]:
    """The outputs that depend on nothing wrong, and the wrong nodes with the outputs they hold up."""
    if not own:
        return tuple(outputs), {}
    bits = _dependents(prompt, outputs, walk.order)
    bad = 0
    for id in own:
        bad |= bits[id]
    good = tuple(output for n, output in enumerate(outputs) if not bad >> n & 1)
    errors = {
        id: NodeErrors(
            own[id],
            tuple(output for n, output in enumerate(outputs) if bits[id] >> n & 1),
            specs[id].name,
        )
        for id in prompt.nodes
        if id in own
    }
    return good, errors


def _dependents(prompt: Prompt, outputs: Sequence[NodeId], order: Sequence[NodeId]) -> dict[NodeId, int]:
    """For each node the outputs that reach it, as bits by their index."""
    bits = dict.fromkeys(order, 0)
    for n, output in enumerate(outputs):
        bits[output] |= 1 << n
    changed = True
    while changed:  # once, and once more to see that nothing changed; more often only around cycles
        changed = False
        for id in reversed(order):
            for _, link in _links(prompt.nodes[id]):
                if link.node in bits and bits[id] & ~bits[link.node]:
                    bits[link.node] |= bits[id]
                    changed = True
    return bits


def _summary(outputs: Iterable[NodeId], own: Mapping[NodeId, tuple[GraphError, ...]]) -> str:
    """One line per error of an output itself, and per cycle."""
    lines = [f"{error.message}: {error.details}" for id in outputs for error in own.get(id, ())]
    for errors in own.values():
        lines += [f"{e.message}: {e.details}" for e in errors if e.code == "dependency_cycle"]
    return "\n".join(dict.fromkeys(lines))


def _coerced(prompt: Prompt, checked: Mapping[NodeId, Checked]) -> Prompt:
    nodes = prompt.nodes
    changed = {id: one.inputs for id, one in checked.items() if one.inputs is not nodes[id].inputs}
    if not changed:
        return prompt
    return Prompt({id: replace(n, inputs=changed[id]) if id in changed else n for id, n in nodes.items()})
