"""The keys of calls: what makes two of them equal work."""

import logging
from collections.abc import Callable, Mapping

from backend.graph.dynamic import DynamicPrompt
from backend.graph.keys import Unkeyable, content_key, value_key
from backend.graph.lowered import Submitter
from backend.graph.order import in_order, linked
from backend.graph.parse import Link, PromptNode
from backend.node import NodeSpec
from backend.ops import Call
from backend.types import NodeId, OpKey

log = logging.getLogger(__name__)


class CallKeys:
    """Of one job's calls. prints: the fingerprints of its nodes, as far as they were taken."""

    def __init__(
        self,
        dynamic: DynamicPrompt,
        spec: Callable[[PromptNode], NodeSpec],
        services: Mapping[type, object],
        submitter: Submitter,
        prints: Mapping[NodeId, object],
    ) -> None:
        self.prints: dict[NodeId, object] = dict(prints)
        self._dynamic, self._spec, self._services = dynamic, spec, services
        self._job, self._client = submitter.job, submitter.client
        self._signatures: dict[NodeId, OpKey] = {}

    def of_call(self, node: PromptNode, call: Call) -> OpKey:
        try:
            return content_key(call)
        except Unkeyable:
            return value_key("only", self._job, node.id)

    def of_lazy(self, node: PromptNode, spec: NodeSpec, call: Call) -> tuple[OpKey, OpKey]:
        """The key of the node's result, which is the same whatever it asks for, and of this attempt at it."""
        named: dict[str, object] = dict(call.inputs)
        for name, value in node.inputs.items():
            if isinstance(value, Link) and name in spec.lazy_names:
                named[name] = ("source", self._signature(value.node), value.slot)
        try:
            key = value_key("lazy", spec.name, named, call.salt)
        except Unkeyable:
            key = value_key("only", self._job, node.id)
        return key, value_key(key, "without", call.missing)

    def _signature(self, id: NodeId) -> OpKey:
        """What a node is, with all that it depends on, whether it runs or not."""
        for each in in_order(self._dynamic.nodes, [id], linked, self._signatures):
            node = self._dynamic.nodes[each]
            inputs = {
                name: ("link", self._signatures.get(value.node, f"circle {value.node}"), value.slot)
                if isinstance(value, Link)
                else value
                for name, value in node.inputs.items()
            }
            try:
                salt = self.salt(node, self._spec(node))
                self._signatures[each] = value_key("node", node.class_type, inputs, salt)
            except Unkeyable:
                self._signatures[each] = value_key("only", self._job, each)
        return self._signatures[id]

    def salt(self, node: PromptNode, spec: NodeSpec) -> tuple[object, ...]:
        """What makes equal inputs different work: a fingerprint, the client of an output, the node's id."""
        salt: list[object] = []
        if spec.fingerprint is not None:
            salt.append(self._fingerprint(node, spec))
        if spec.output_node:
            salt.append(self._client)
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
                salt.append(tuple(in_order(self._dynamic.nodes, [node.id])))  # it may look at their ids
        return tuple(salt)

    def _fingerprint(self, node: PromptNode, spec: NodeSpec) -> object:
        """Of third-party nodes it was taken before; a built-in one's is taken here, once per job."""
        if node.id not in self.prints and spec.fingerprint is not None:
            literals = {
                name: None if isinstance(value, Link) else value
                for name, value in node.inputs.items()
                if spec.input(name) is not None
            }
            try:
                self.prints[node.id] = spec.fingerprint(**literals, **served(spec, self._services))
            except Exception as error:  # a node's own code: what can't be told is never equal
                log.warning("The fingerprint of node %s (%s) raised: %s", node.id, spec.name, error)
                self.prints[node.id] = float("nan")
        return self.prints.get(node.id)


def served(spec: NodeSpec, services: Mapping[type, object]) -> dict[str, object]:
    """What a node is handed beside its inputs."""
    return {name: services[kind] for name, kind in spec.services.items()}
