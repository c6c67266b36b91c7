"""Orders of a prompt's nodes: sources first, and what stands in a circle."""

from collections.abc import Callable, Container, Iterable, Mapping

from backend.graph.parse import Link, PromptNode
from backend.types import NodeId

Sources = Callable[[PromptNode], list[NodeId]]


def linked(node: PromptNode) -> list[NodeId]:
    """The nodes that any input is linked to."""
    return [value.node for value in node.inputs.values() if isinstance(value, Link)]


def in_order(
    nodes: Mapping[NodeId, PromptNode],
    ends: Iterable[NodeId],
    sources: Sources = linked,
    without: Container[NodeId] = (),
) -> list[NodeId]:
    """All that `ends` depend on, themselves included, sources first; a circle is broken somewhere.

    Of a node's sources the last comes first: the order in which ComfyUI runs what is ready at once.

    without: nodes that are left out, with what only they depend on.
    """
    order: dict[NodeId, None] = {}
    entered: set[NodeId] = set()
    stack = [(id, False) for id in reversed(list(ends))]
    while stack:
        id, sources_done = stack.pop()
        if sources_done:
            order[id] = None
        elif id not in entered and id not in without:
            entered.add(id)
            stack.append((id, True))
            stack.extend((source, False) for source in sources(nodes[id]) if source not in entered)
    return list(order)


def circle(
    nodes: Mapping[NodeId, PromptNode], among: Iterable[NodeId], sources: Sources
) -> tuple[NodeId, ...]:
    """The nodes along one circle among the given ones, in which each waits for the next; () if none does."""
    left = dict.fromkeys(among)
    while left:
        path: dict[NodeId, None] = {}
        id: NodeId | None = next(iter(left))
        while id is not None and id not in path:
            path[id] = None
            id = next((source for source in sources(nodes[id]) if source in left), None)
        if id is not None:
            ids = list(path)
            return tuple(ids[ids.index(id) :])
        del left[list(path)[-1]]  # it waits for none of them
    return ()
