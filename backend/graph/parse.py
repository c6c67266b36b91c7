"""An API-format prompt (`{id: {class_type, inputs}}`) becomes a `Prompt`. Classes are not looked at here."""

from collections.abc import Mapping
from dataclasses import field
from math import isfinite
from typing import TypeAlias

from backend.errors import InvalidPrompt, NoPrompt
from backend.types import NodeId
from backend.values import frozen

_OWN_KEYS = frozenset({"class_type", "inputs"})
_WRAP = "__value__"


@frozen
class Link:
    """An input that takes output `slot` (0 is the first) of another node."""

    node: NodeId
    slot: int


@frozen
class BadLink:
    """A bare list that is no link. `received` is the list; validation says what is wrong with it."""

    received: list[object]


Input: TypeAlias = object  # a Link, a BadLink, or a JSON value


@frozen
class PromptNode:
    """One node. bare: its JSON had no `inputs`; extra: its other keys (`_meta` ...), kept as they came."""

    id: NodeId
    class_type: str
    inputs: Mapping[str, Input]
    bare: bool = False
    extra: Mapping[str, object] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """What the user called the node; its class where the prompt doesn't say."""
        meta = self.extra.get("_meta")
        title = meta.get("title") if isinstance(meta, dict) else None
        return title if isinstance(title, str) and title else self.class_type

    def to_json(self) -> dict[str, object]:
        inputs = {} if self.bare else {"inputs": {name: _dump(value) for name, value in self.inputs.items()}}
        return {**inputs, "class_type": self.class_type, **self.extra}


@frozen
class Prompt:
    """A graph as submitted, its nodes in the order of the JSON."""

    nodes: Mapping[NodeId, PromptNode]

    def to_json(self) -> dict[str, object]:
        """The API format. `parse_prompt` of it equals this prompt."""
        return {id: node.to_json() for id, node in self.nodes.items()}


def parse_prompt(value: object) -> Prompt:
    """Read the JSON value under the key `prompt`; None stands for no such key.

    Raises: NoPrompt; InvalidPrompt, for what is no graph of nodes.
    """
    if value is None:
        raise NoPrompt
    if not isinstance(value, dict):
        raise InvalidPrompt(
            None,
            "The prompt is not a graph.",
            f"prompt is {_kind(value)}; send an object that maps node ids to nodes (the API format)",
        )
    return Prompt({id: _node(id, node) for id, node in value.items()})


def _node(id: object, value: object) -> PromptNode:
    if not isinstance(id, str):
        raise InvalidPrompt(None, "A node id is not a string.", f"Node ID '#{id}'")
    node_id = NodeId(id)
    if not isinstance(value, dict):
        raise _invalid(node_id, "a node is not an object", f"it is {_kind(value)}")
    if "class_type" not in value:
        raise _invalid(node_id, "a node is missing the class_type property")
    class_type = value["class_type"]
    if not isinstance(class_type, str):
        raise _invalid(node_id, f"node {class_type} does not exist", "class_type is not a string")
    inputs = value.get("inputs", {})
    if not isinstance(inputs, dict):
        raise _invalid(node_id, "a node's inputs are not an object", f"they are {_kind(inputs)}")
    extra = {key: kept for key, kept in value.items() if key not in _OWN_KEYS}
    if extra:
        _require_finite(node_id, "a node", extra)
    read = {name: _input(node_id, name, given) for name, given in inputs.items()}
    return PromptNode(node_id, class_type, read, "inputs" not in value, extra)


def _input(node: NodeId, name: str, value: object) -> Input:
    if isinstance(value, list):
        link = _link(value)
        if isinstance(link, Link):
            return link
        _require_finite(node, f"input {name!r}", value)
        return link
    if isinstance(value, dict) and _WRAP in value:
        value = value[_WRAP]
    if isinstance(value, (float, list, dict)):
        _require_finite(node, f"input {name!r}", value)
    return value


def _link(value: list[object]) -> Link | BadLink:
    match value:
        case [str(node), bool()]:
            return BadLink(value)
        case [str(node), int(slot)]:
            return Link(NodeId(node), slot)
        case [str(node), float(slot)] if slot.is_integer():
            return Link(NodeId(node), int(slot))
    return BadLink(value)


def _require_finite(node: NodeId, place: str, value: object) -> None:
    """JSON can't say Infinity, yet 1e999 reads as it, and no client could read our answer with it."""
    left = [value]
    while left:
        part = left.pop()
        if isinstance(part, float) and not isfinite(part):
            raise _invalid(node, f"{place} holds a number that is not finite", "send a finite number")
        if isinstance(part, list):
            left.extend(part)
        elif isinstance(part, dict):
            left.extend(part.values())


def _dump(value: Input) -> object:
    if isinstance(value, Link):
        return [value.node, value.slot]
    if isinstance(value, BadLink):
        return value.received
    if isinstance(value, list) or (isinstance(value, dict) and _WRAP in value):
        return {_WRAP: value}
    return value


def _invalid(node: NodeId, problem: str, remedy: str = "") -> InvalidPrompt:
    details = f"Node ID '#{node}'" + (f": {remedy}" if remedy else "")
    return InvalidPrompt(node, f"Cannot execute because {problem}.", details)


def _kind(value: object) -> str:
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list"}
    return "null" if value is None else names.get(type(value), "an object")
