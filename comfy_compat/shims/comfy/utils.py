"""ComfyUI's `comfy.utils`: files of weights, sizes of pictures, progress."""

from comfy_compat.progress import report_progress

PROGRESS_BAR_ENABLED = True


def _to_clients(value, total, preview=None, prompt_id=None, node_id=None):
    report_progress(value, total, node_id, preview)


PROGRESS_BAR_HOOK = _to_clients


def set_progress_bar_enabled(enabled):
    globals()["PROGRESS_BAR_ENABLED"] = enabled


def set_progress_bar_global_hook(function):
    globals()["PROGRESS_BAR_HOOK"] = function


class ProgressBar:
    """Tells the client how far the node is."""

    def __init__(self, total, node_id=None):
        self.total = total
        self.current = 0
        self.hook = PROGRESS_BAR_HOOK
        self.node_id = node_id

    def update_absolute(self, value, total=None, preview=None):
        if total is not None:
            self.total = total
        self.current = min(value, self.total)
        if self.hook is not None:
            self.hook(self.current, self.total, preview, node_id=self.node_id)

    def update(self, value):
        self.update_absolute(self.current + value)
