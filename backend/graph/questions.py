"""What a node's class is asked about its inputs before any of it runs: its fingerprint.

Third-party code answers here, so this may take long, and may be a coroutine.
"""

import logging
from collections.abc import Mapping
from inspect import isawaitable

from backend.graph.dynamic import as_link
from backend.graph.parse import Link, PromptNode
from backend.node import NodeSpec
from backend.types import NodeId

log = logging.getLogger(__name__)
NEVER_EQUAL = float("nan")


def literals(spec: NodeSpec, inputs: Mapping[str, object]) -> dict[str, object]:
    """The inputs as a class is shown them before the run: values of what it declares, None for links."""
    shown: dict[str, object] = {}
    for name, value in inputs.items():
        link = value if isinstance(value, Link) else as_link(value)
        if link is not None and name in spec.raw_names:
            shown[name] = [link.node, link.slot]
        elif link is not None:
            shown[name] = None
        elif spec.input(name) is not None:
            shown[name] = value
    return shown


def hidden(spec: NodeSpec, id: NodeId, prompt: object) -> dict[str, object]:
    """Hidden inputs, so far as they are known before the run."""
    known: dict[str, object] = {"UNIQUE_ID": id, "PROMPT": prompt}
    return {name: known.get(kind) for name, kind in spec.hidden.items()}


def listed(spec: NodeSpec, values: Mapping[str, object]) -> dict[str, object]:
    """Values as the class takes them: in lists where it takes lists."""
    return {name: [value] for name, value in values.items()} if spec.input_is_list else dict(values)


async def fingerprint(spec: NodeSpec, id: NodeId, inputs: Mapping[str, object], prompt: object) -> object:
    """What a third-party class says of a node's state. What it can't say is never equal to anything."""
    shown = {**literals(spec, inputs), **hidden(spec, id, prompt)}
    try:
        value = spec.fingerprint(**listed(spec, shown)) if spec.fingerprint is not None else None
        return await value if isawaitable(value) else value
    except Exception as error:  # around a custom node
        log.warning("The change check of node %s (%s) raised: %s", id, spec.name, error, exc_info=error)
        return NEVER_EQUAL


def is_foreign(spec: NodeSpec) -> bool:
    """Whether the class's questions run third-party code."""
    return spec.dynamic and (spec.fingerprint is not None or spec.validate is not None)


async def fingerprints(
    nodes: Mapping[NodeId, PromptNode], specs: Mapping[NodeId, NodeSpec], prompt: object
) -> dict[NodeId, object]:
    """Of all third-party nodes that have one, each asked once."""
    found: dict[NodeId, object] = {}
    for id, spec in specs.items():
        if spec.dynamic and spec.fingerprint is not None:
            found[id] = await fingerprint(spec, id, nodes[id].inputs, prompt)
    return found
