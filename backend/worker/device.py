"""What a worker computes on: the device, the number formats that suit it, and its memory."""

import os

import psutil
import torch

from backend.components import ComponentKind
from backend.errors import UnsupportedOption
from backend.settings import Settings
from backend.worker.memory import Memory
from backend.worker.messages import DeviceInfo, Setup

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_MAX_ROWS = {"cpu": 8, "cuda": 32, "mps": 8}  # of one forward pass; until it is measured per model and size


def choose(settings: Settings, index: int) -> torch.device:
    """The device of worker `index`: the GPU of that number where there are GPUs, else the CPU."""
    if not settings.cpu and torch.cuda.is_available():
        return torch.device("cuda", index % torch.cuda.device_count())
    if not settings.cpu and torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def compute_dtype(
    device: torch.device, settings: Settings, kind: ComponentKind, asked: str = ""
) -> torch.dtype:
    """What a component is computed in.

    On a CPU float32 unless told otherwise: half formats are slower there.
    """
    if asked or settings.precision != "auto":
        precision = asked or settings.precision
        if precision not in _DTYPES:
            remedy = f"Use one of: auto, {', '.join(_DTYPES)}."
            raise UnsupportedOption("precision", precision, remedy)
        return _DTYPES[precision]
    if device.type == "cpu":
        return torch.float32
    if kind == "upscaler":  # ComfyUI's choice too: half formats show in flat areas
        return torch.float32
    if kind == "vae":  # its activations overflow fp16
        halves = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if halves else torch.float32
    return torch.float16


def max_rows(device: torch.device) -> int:
    """How many rows one forward pass may have."""
    return _MAX_ROWS.get(device.type, 8)


def threads(setup: Setup) -> int:
    """Torch threads of this worker: what the settings say, else the cores shared out among the workers."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return setup.settings.threads or max(1, cores // max(1, setup.count))


def info(device: torch.device, memory: Memory) -> DeviceInfo:
    """The device's name and memory as of now, bytes: of a worker with a limit, what it leaves.

    On a CPU torch's share is all of it, as ComfyUI says.
    """
    if device.type == "cuda":
        _, total = torch.cuda.mem_get_info(device)
        stats = torch.cuda.memory_stats(device)
        reserved = int(stats.get("reserved_bytes.all.current", 0))
        unused = reserved - int(stats.get("active_bytes.all.current", 0))
        name = f"{device} {torch.cuda.get_device_name(device)}"
        most = min(total, memory.limit or total)
        return DeviceInfo(name, "cuda", device.index, most, memory.room, reserved, unused)
    total = psutil.virtual_memory().total
    most, room = min(total, memory.limit or total), memory.room
    return DeviceInfo(str(device), device.type, None, most, room, most, room)
