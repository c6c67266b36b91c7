"""What lowering makes, and what can go wrong with a node on the way."""

from collections.abc import Callable, Mapping
from dataclasses import field
from typing import ClassVar

from backend.errors import TesseraError
from backend.graph.dynamic import DynamicPrompt
from backend.node import NodeSpec
from backend.references import Ref
from backend.types import ClientId, JobId, JobKey, NodeId, OpKey
from backend.values import frozen

Items = tuple[object, ...]  # what one wire carries: values, or Refs to results
MISSING = object()
Known = Callable[[Ref], object]  # the value of a result, or MISSING
Lengths = Callable[[OpKey], tuple[int, ...] | None]  # items per output of a finished op, None before
_NO_JOB = JobId("")


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


@frozen
class Submitter:
    """Whose job it is, and what hidden inputs say. prompt: its JSON, made anew where this is None."""

    job: JobKey
    client: ClientId | None = None
    extra_pnginfo: object = None
    tokens: Mapping[str, object] = field(default_factory=dict)  # AUTH_TOKEN_COMFY_ORG and the like
    id: JobId = _NO_JOB
    prompt: Mapping[str, object] | None = None

    def hidden(self, kind: str, node: NodeId, prompt: DynamicPrompt) -> object:
        """What a hidden input of that kind says to a node."""
        match kind:
            case "PROMPT":
                return prompt.get_original_prompt()
            case "DYNPROMPT":
                return prompt
            case "EXTRA_PNGINFO":
                return self.extra_pnginfo
            case "UNIQUE_ID":
                return node
            case _:
                return self.tokens.get(kind)


@frozen
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


@frozen
class Composed:
    """An expanded node's result, made of those of the nodes that ran in its place."""

    id: NodeId
    key: OpKey
    outputs: tuple[Items, ...]
