"""Reference and model nodes: what they return is a reference, or ops, at once."""

from collections.abc import Mapping

from backend.graph.flatten import flatten
from backend.graph.lowered import Items, NodeRaised
from backend.graph.parse import PromptNode
from backend.node import NodeSpec
from backend.ops import Awaiting, Op
from backend.types import Blocked, OpKey
from backend.values import frozen


@frozen
class Returned:
    """columns: the items of each output; ops: that they refer to; blocked: messages of blockers met."""

    columns: tuple[Items, ...]
    ops: Mapping[OpKey, Op[object]]
    blocked: tuple[str, ...]


def run(
    node: PromptNode, spec: NodeSpec, inputs: Mapping[str, Items], served: Mapping[str, object]
) -> Returned:
    """Run a node once per item of its longest input.

    Raises: NodeRaised; Awaiting where ops must run first.
    """
    ops: dict[OpKey, Op[object]] = {}
    columns: list[list[object]] = [[] for _ in spec.outputs]
    blocked: list[str] = []
    for arguments in _calls(node, spec, inputs):
        stop = next((value for value in arguments.values() if isinstance(value, Blocked)), None)
        if stop is not None:
            blocked += [stop.message] if stop.message is not None else []
            for column in columns:
                column.append(Blocked())
            continue
        try:
            returned = spec.function(**arguments, **served)
        except Awaiting:
            raise
        except Exception as error:  # a node's own code: what it raises is that node's error
            raise NodeRaised(node.id, spec.name, error, arguments) from error
        values = returned if isinstance(returned, tuple) and len(spec.outputs) != 1 else (returned,)
        for column, value in zip(columns, values, strict=True):
            column.append(flatten(value, ops))
    return Returned(tuple(map(tuple, columns)), ops, tuple(blocked))


def _calls(node: PromptNode, spec: NodeSpec, inputs: Mapping[str, Items]) -> list[dict[str, object]]:
    """The arguments of each call of a reference or model node. Raises: NodeRaised."""
    longest = max(map(len, inputs.values()), default=0)
    if longest == 0:
        return [{}]
    for name, items in inputs.items():
        if not items:
            error = IndexError(f"Input {name!r} is an empty list, while others have up to {longest} items.")
            raise NodeRaised(node.id, spec.name, error, inputs)
    return [{name: items[min(i, len(items) - 1)] for name, items in inputs.items()} for i in range(longest)]
