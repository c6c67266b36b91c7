"""ComfyUI's `comfy_api.latest`."""

from comfy_compat.context import report_progress


class Execution:
    """What a running node may say of itself."""

    async def set_progress(self, value, max_value, node_id=None, preview_image=None, ignore_size_limit=False):
        """How far the node is; `preview_image` is a PIL image or an IMAGE tensor."""
        report_progress(value, max_value, node_id, preview_image, ignore_size_limit)


class ExecutionSync:
    """`Execution` for code that can't await."""

    def set_progress(self, value, max_value, node_id=None, preview_image=None, ignore_size_limit=False):
        report_progress(value, max_value, node_id, preview_image, ignore_size_limit)


class ComfyAPI_latest:
    """The API of nodes, to be awaited."""

    VERSION = "latest"
    STABLE = False
    Execution = Execution

    def __init__(self):
        self.execution = Execution()


class ComfyAPISync_latest:
    """The API of nodes, for code that can't await."""

    VERSION = "latest"
    STABLE = False
    Execution = ExecutionSync

    def __init__(self):
        self.execution = ExecutionSync()


ComfyAPI = ComfyAPI_latest
ComfyAPISync = ComfyAPISync_latest
__all__ = ["ComfyAPI", "ComfyAPISync"]
