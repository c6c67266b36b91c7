"""ComfyUI's `comfy_api.torch_helpers`."""

from comfy.patcher_extension import WrappersMP

COMPILE_KEY = "torch.compile"


def set_torch_compile_wrapper(
    model, backend, options=None, mode=None, fullgraph=False, dynamic=None, keys=(), **kwargs
):
    """The engine compiles what it runs by itself; earlier wrappers of this kind are taken off."""
    model.remove_wrappers_with_key(WrappersMP.APPLY_MODEL, COMPILE_KEY)
