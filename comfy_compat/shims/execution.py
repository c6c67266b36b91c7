"""ComfyUI's `execution`: names that packs import. Prompts are run by the server's engine."""

from typing import NamedTuple

from comfy_execution.graph import ExecutionBlocker

from backend.graph.parse import parse_prompt
from backend.graph.validate import Refused, validate


class PromptExecutor:
    """Kept as the place where packs look for handlers; the engine runs prompts."""

    def __init__(self, server=None, *args, **kwargs):
        self.server = server
        self.success = True
        self.status_messages = []

    def handle_execution_error(self, prompt_id, prompt, current_outputs, executed, error, ex):
        """The engine tells clients of errors."""

    def add_message(self, event, data, broadcast):
        self.server.send_sync(event, data, None if broadcast else self.server.client_id)


class PromptQueue:
    """The server's queue is `server.PromptServer.instance.prompt_queue`."""

    class ExecutionStatus(NamedTuple):
        status_str: str
        completed: bool
        messages: list


async def validate_prompt(prompt_id, prompt, partial_execution_list=None):
    """(whether it can run, error, its good outputs, errors of nodes)."""
    try:
        services = bridge.services
        checked = validate(parse_prompt(prompt), bridge.registry, services, partial_execution_list)
    except Refused as refused:
        return False, {"type": refused.code, "message": str(refused), "details": "", "extra_info": {}}, [], {}
    return True, None, list(checked.outputs), {}


__all__ = ["ExecutionBlocker", "PromptExecutor", "PromptQueue", "validate_prompt"]
