"""ComfyUI's `comfy_execution.graph_utils`: prompt fragments that a node expands into."""

from comfy_compat.graphs import ExecutionBlocker, GraphBuilder, Node, add_graph_prefix, is_link

__all__ = ["ExecutionBlocker", "GraphBuilder", "Node", "add_graph_prefix", "is_link"]
