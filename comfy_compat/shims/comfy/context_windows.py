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
