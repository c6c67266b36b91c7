"""Prompt fragments that a node expands into, as packs build them, and the mark that blocks consumers."""

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import count

from backend.calling import CallContext, current
from backend.values import frozen

Fragment = dict[str, dict[str, object]]


@frozen
class _Numbering:
    """Whose graphs are counted: those of `<root>.<call>`, in the call that runs."""

    call: CallContext | None
    prefix: str
    following: Callable[[], int]


_NUMBERING: ContextVar[_Numbering | None] = ContextVar("numbering", default=None)


class ExecutionBlocker:
    """An output that must not be used: consumers are not called. message None: silently."""

    def __init__(self, message: str | None) -> None:
        self.message = message


def _numbering() -> _Numbering:
    """That of the call that runs, begun at its first graph."""
    call, known = current(), _NUMBERING.get()
    if known is not None and known.call is call:
        return known
    prefix = "" if call is None else f"{call.node}.{call.list_index}"
    begun = _Numbering(call, prefix, count().__next__)
    _NUMBERING.set(begun)
    return begun


def is_link(value: object) -> bool:
    """Whether an input stands for another node's output: `[id, slot]`."""
    match value:
        case [str(), int() | float()]:
            return isinstance(value, list)
    return False


@dataclass(slots=True, eq=False)
class Node:
    """One node of a fragment."""

    id: str
    class_type: str
    inputs: dict[str, object]
    override_display_id: str | None = None

    def out(self, index: int) -> list[object]:
        """A link to one of its outputs."""
        return [self.id, index]

    def set_input(self, key: str, value: object) -> None:
        """None removes the input."""
        if value is None:
            self.inputs.pop(key, None)
        else:
            self.inputs[key] = value

    def get_input(self, key: str) -> object:
        return self.inputs.get(key)

    def set_override_display_id(self, override_display_id: str) -> None:
        """Events of this node are shown on that one."""
        self.override_display_id = override_display_id

    def serialize(self) -> dict[str, object]:
        shown = self.override_display_id
        display: dict[str, object] = {} if shown is None else {"override_display_id": shown}
        return {"class_type": self.class_type, "inputs": self.inputs, **display}


class GraphBuilder:
    """Builds a fragment; ids are `<parent>.<call index>.<graph index>.<n>` unless a prefix is given."""

    def __init__(self, prefix: str | None = None) -> None:
        self.prefix = self.alloc_prefix() if prefix is None else prefix
        self.nodes: dict[str, Node] = {}
        self.id_gen = 1

    @classmethod
    def set_default_prefix(cls, prefix_root: str, call_index: int, graph_index: int = 0) -> None:
        """Say which call the graphs that follow belong to."""
        prefix = f"{prefix_root}.{call_index}"
        _NUMBERING.set(_Numbering(current(), prefix, count(graph_index).__next__))

    @classmethod
    def alloc_prefix(
        cls, root: str | None = None, call_index: int | None = None, graph_index: int | None = None
    ) -> str:
        """A prefix that no other graph of this call has."""
        numbering = _numbering()
        known_root, _, known_call = numbering.prefix.rpartition(".")
        number = numbering.following() if graph_index is None else graph_index
        own_root = known_root if root is None else root
        own_call = (known_call or "0") if call_index is None else call_index
        return f"{own_root}.{own_call}.{number}."

    def node(self, class_type: str, id: str | None = None, **inputs: object) -> Node:
        """Add a node, or find the one of that id."""
        if id is None:
            id = str(self.id_gen)
            self.id_gen += 1
        return self.nodes.setdefault(self.prefix + id, Node(self.prefix + id, class_type, inputs))

    def lookup_node(self, id: str) -> Node | None:
        return self.nodes.get(self.prefix + id)

    def finalize(self) -> dict[str, dict[str, object]]:
        """The fragment, as a node returns it under `expand`."""
        return {id: node.serialize() for id, node in self.nodes.items()}

    def replace_node_output(self, node_id: str, index: int, new_value: object) -> None:
        """Give all that use an output another value; None takes the input away from them."""
        old = [self.prefix + node_id, index]
        for node in self.nodes.values():
            for key in [k for k, value in node.inputs.items() if is_link(value) and value == old]:
                node.set_input(key, new_value)

    def remove_node(self, id: str) -> None:
        del self.nodes[self.prefix + id]


def add_graph_prefix(
    graph: Mapping[str, Mapping[str, object]], outputs: Sequence[object], prefix: str
) -> tuple[Fragment, tuple[object, ...]]:
    """A fragment and links into it, with a prefix before every id."""

    def moved(value: object) -> object:
        return [prefix + value[0], value[1]] if is_link(value) else value  # type: ignore[index]  # a list

    nodes: Fragment = {}
    for id, node in graph.items():
        inputs = node.get("inputs", {})
        assert isinstance(inputs, Mapping)
        nodes[prefix + id] = {
            "class_type": node["class_type"],
            "inputs": {name: moved(value) for name, value in inputs.items()},
        }
    return nodes, tuple(moved(value) for value in outputs)
