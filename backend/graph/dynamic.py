"""The submitted prompt and what expansion added to it: as the lowering sees it, and as nodes read it."""

from collections.abc import Mapping
from typing import ClassVar

from backend.errors import TesseraError
from backend.graph.parse import Link, Prompt, PromptNode
from backend.types import NodeId
from backend.values import frozen


class NodeNotFound(TesseraError):
    """A node id that the prompt doesn't have."""

    code = "node_not_found"
    shown_as: ClassVar[str] = "comfy_execution.graph.NodeNotFoundError"  # the type that clients know

    def __init__(self, id: object) -> None:
        self.id = id
        super().__init__(f"Node {id} not found")


class DuplicateNode(TesseraError):
    """An expansion used a node id a second time."""

    code = "duplicate_node"
    shown_as: ClassVar[str] = "execution.DuplicateNodeError"

    def __init__(self, id: NodeId) -> None:
        self.id = id
        super().__init__(
            f"Attempt to add duplicate node {id}. Node ids of an expansion must be unique: build them with "
            "GraphBuilder, or put the id of the expanding node in front."
        )


@frozen
class Place:
    """Where a node shows: on which node of the prompt, made by which, and within which submitted one."""

    display: NodeId
    parent: NodeId | None
    real: NodeId


class DynamicPrompt:
    """The prompt as a third-party node reads it (`DYNPROMPT`). Nodes are in API format.

    Read by host threads while the engine adds to it; a node is there as a whole or not at all.
    """

    def __init__(self, prompt: Prompt, original: Mapping[str, object] | None = None) -> None:
        """original: the prompt's JSON, where it is there already."""
        self._prompt = prompt
        self._original = original
        self._added: dict[NodeId, Mapping[str, object]] = {}
        self._parents: dict[NodeId, NodeId] = {}
        self._display: dict[NodeId, NodeId] = {}
        self.nodes: dict[NodeId, PromptNode] = dict(prompt.nodes)

    # -- what nodes call; the names are ComfyUI's --------------------------------------------------

    def get_node(self, node_id: str) -> Mapping[str, object]:
        """Raises: NodeNotFound."""
        if (added := self._added.get(NodeId(node_id))) is not None:
            return added
        original: Mapping[str, Mapping[str, object]] = self.get_original_prompt()
        if node_id not in original:
            raise NodeNotFound(node_id)
        return original[node_id]

    def has_node(self, node_id: str) -> bool:
        return node_id in self.nodes

    def get_real_node_id(self, node_id: str) -> str:
        return self.place(NodeId(node_id)).real

    def get_parent_node_id(self, node_id: str) -> str | None:
        return self._parents.get(NodeId(node_id))

    def get_display_node_id(self, node_id: str) -> str:
        return self.place(NodeId(node_id)).display

    def all_node_ids(self) -> set[str]:
        return set(self.nodes)

    def get_original_prompt(self) -> dict[str, dict[str, object]]:
        """The prompt as it was submitted."""
        if self._original is None:
            self._original = self._prompt.to_json()
        return self._original  # type: ignore[return-value]  # an object per node

    # -- what the engine calls -------------------------------------------------------------------

    def place(self, id: NodeId) -> Place:
        display = real = id
        while display in self._display and self._display[display] != display:
            display = self._display[display]
        while real in self._parents:
            real = self._parents[real]
        return Place(display, self._parents.get(id), real)

    def add(self, parent: NodeId, fragment: Mapping[NodeId, Mapping[str, object]]) -> list[PromptNode]:
        """Take in the nodes that stand for `parent`. Raises: DuplicateNode; KeyError for no `class_type`."""
        for id in fragment:
            if id in self.nodes:
                raise DuplicateNode(id)
        added = [_fragment_node(id, node) for id, node in fragment.items()]
        for node in added:
            raw = fragment[node.id]
            self._added[node.id] = raw
            self._parents[node.id] = parent
            self._display[node.id] = NodeId(str(raw.get("override_display_id", parent)))
            self.nodes[node.id] = node
        return added


def renamed(
    fragment: Mapping[str, Mapping[str, object]], old: NodeId, new: NodeId
) -> dict[NodeId, Mapping[str, object]]:
    """A fragment made for node `old`, for an equal node `new`: ids that begin with the old id follow it."""
    if old == new:
        return {NodeId(id): node for id, node in fragment.items()}
    ids = {id: renamed_id(id, old, new) for id in fragment}
    made: dict[NodeId, Mapping[str, object]] = {}
    for id, node in fragment.items():
        changed = dict(node)
        inputs = node.get("inputs")
        if isinstance(inputs, Mapping):
            changed["inputs"] = {name: _moved(value, ids) for name, value in inputs.items()}
        if changed.get("override_display_id") == old:
            changed["override_display_id"] = new
        made[ids[id]] = changed
    return made


def renamed_id(id: str, old: NodeId, new: NodeId) -> NodeId:
    return NodeId(new + id[len(old) :] if id.startswith(f"{old}.") else id)


def as_link(value: object) -> Link | None:
    """A value that an expansion returned or put in, if it is a link `[id, slot]`."""
    if isinstance(value, list) and len(value) == 2:
        node, slot = value
        if isinstance(node, str) and isinstance(slot, (int, float)) and not isinstance(slot, bool):
            return Link(NodeId(node), int(slot))
    return None


def _fragment_node(id: NodeId, raw: Mapping[str, object]) -> PromptNode:
    """A node of an expansion. Its values are Python's, of any type; nothing is checked."""
    given = raw.get("inputs", {})
    inputs = {str(name): as_link(value) or value for name, value in given.items()}  # type: ignore[attr-defined]
    extra = {key: value for key, value in raw.items() if key not in ("class_type", "inputs")}
    return PromptNode(id, str(raw["class_type"]), inputs, extra=extra)


def _moved(value: object, ids: Mapping[str, NodeId]) -> object:
    link = as_link(value)
    if link is None or link.node not in ids or not isinstance(value, list):
        return value
    return [ids[link.node], value[1]]
