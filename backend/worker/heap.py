"""The heap of the C library."""

import ctypes
import sys


def give_back() -> None:
    """Return what was freed to the system, where the C library (glibc) keeps it for later."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # others need no asking
        if trim is not None:
            trim(0)
