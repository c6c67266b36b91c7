"""ComfyUI's `comfy.ldm.util`."""


def exists(x):
    return x is not None


def default(val, d):
    if val is not None:
        return val
    return d() if callable(d) else d
