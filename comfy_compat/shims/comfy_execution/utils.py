"""ComfyUI's `comfy_execution.utils`: which node runs."""

from typing import NamedTuple

from backend.calling import current


class ExecutionContext(NamedTuple):
    prompt_id: str
    node_id: str
    list_index: int | None


def get_executing_context():
    """The call that this code runs in; None outside of one."""
    call = current()
    return None if call is None else ExecutionContext(call.job, call.node, call.list_index)


class CurrentNodeContext:
    """Kept for packs that enter it: which call runs is known without being told."""

    def __init__(self, prompt_id, node_id, list_index=None):
        self.context = ExecutionContext(prompt_id, node_id, list_index)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        return None
