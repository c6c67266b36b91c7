"""ComfyUI's `comfy_execution.graph`, as far as nodes use it."""

from comfy_compat.graphs import ExecutionBlocker, is_link


class DependencyCycleError(Exception):
    """Nodes wait for each other in a circle."""


class NodeInputError(Exception):
    """An input of a node can't be had."""


class NodeNotFoundError(Exception):
    """No node of that id."""


__all__ = ["DependencyCycleError", "ExecutionBlocker", "NodeInputError", "NodeNotFoundError", "is_link"]
