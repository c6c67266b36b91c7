"""Nodes that run in place of another, and the result that is made of theirs."""

from collections.abc import Callable, Iterator

from backend.graph.dynamic import DynamicPrompt, NodeNotFound, as_link, renamed, renamed_id
from backend.graph.lowered import Items
from backend.graph.order import linked
from backend.graph.parse import Link, PromptNode
from backend.node import NodeSpec
from backend.ops import Expanded, Row
from backend.types import NodeId, OpKey
from backend.values import frozen


@frozen
class Expansion:
    """An expanded node: the key of its result, and what each of its calls returned."""

    key: OpKey
    spec: NodeSpec
    rows: tuple[Row, ...]

    def links(self) -> Iterator[Link]:
        """Into the nodes that run in its place."""
        values = (value for row in self.rows if row.nodes is not None for value in row.values)
        yield from (link for value in values if (link := as_link(value)))

    def compose(self, items_of: Callable[[Link], Items | None]) -> tuple[Items, ...] | None:
        """Each output's items over all rows; None where an inner result is not there yet."""
        columns: list[list[object]] = [[] for _ in self.spec.outputs]
        complete = True
        for row in self.rows:
            for column, output, value in zip(columns, self.spec.outputs, row.values, strict=False):
                link = as_link(value) if row.nodes is not None else None
                items = (value,) if link is None else items_of(link)
                if items is None:
                    complete = False
                elif output.is_list and len(items) == 1 and isinstance(items[0], (list, tuple)):
                    column.extend(items[0])
                else:
                    column.extend(items)
        return tuple(map(tuple, columns)) if complete else None


def add_rows(
    dynamic: DynamicPrompt, id: NodeId, answer: Expanded
) -> tuple[tuple[Row, ...], list[PromptNode]]:
    """Add the fragments of an answer to the prompt, in place of node `id`.

    Returns: the rows with their links there, and the nodes that were added. Raises: NodeNotFound, KeyError
    and TypeError where the fragments are not what they should be.
    """
    rows: list[Row] = []
    added: list[PromptNode] = []
    for row in answer.rows:
        if row.nodes is None:
            rows.append(row)
            continue
        added += dynamic.add(id, renamed(row.nodes, answer.node, id))
        values = [
            [renamed_id(link.node, answer.node, id), link.slot] if (link := as_link(value)) else value
            for value in row.values
        ]
        rows.append(Row(tuple(values), row.nodes))
    ends = [link.node for row in rows if row.nodes is not None for v in row.values if (link := as_link(v))]
    for source in [*ends, *(source for node in added for source in linked(node))]:
        if source not in dynamic.nodes:
            raise NodeNotFound(source)
    return tuple(rows), added
