"""ComfyUI's `comfy.context_windows`: names of schedules and of ways to fuse windows."""

from dataclasses import dataclass
from typing import Any


class ContextFuseMethods:
    PYRAMID = "pyramid"
    FLAT = "flat"
    OVERLAP_LINEAR = "overlap-linear"
    LIST_STATIC = [PYRAMID, FLAT, OVERLAP_LINEAR]


@dataclass
class ContextSchedule:
    name: str
    func: Any


@dataclass
class ContextFuseMethod:
    name: str
    func: Any


class IndexListContextHandler:
    """Windows over frames; kept as data, the server's own nodes make them act."""

    def __init__(
        self, context_schedule, fuse_method, context_length=1, context_overlap=0, context_stride=1, **kwargs
    ):
        self.context_schedule, self.fuse_method = context_schedule, fuse_method
        self.context_length, self.context_overlap = context_length, context_overlap
        self.context_stride = context_stride
        self.__dict__.update(kwargs)


_SCHEDULES = ("standard_static", "standard_uniform", "looped_uniform", "batched")


def get_matching_context_schedule(context_schedule):
    """Raises: ValueError for an unknown name."""
    if context_schedule not in _SCHEDULES:
        raise ValueError(
            f"Unknown context_schedule '{context_schedule}'; use one of {', '.join(_SCHEDULES)}."
        )
    return ContextSchedule(context_schedule, None)


def get_matching_fuse_method(fuse_method):
    """Raises: ValueError for an unknown name."""
    if fuse_method not in ContextFuseMethods.LIST_STATIC:
        raise ValueError(f"Unknown fuse_method '{fuse_method}'.")
    return ContextFuseMethod(fuse_method, None)


def create_prepare_sampling_wrapper(model):
    """The engine prepares runs."""
