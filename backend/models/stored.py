"""Weights as a file has them, which become whole only while a layer computes with them.

Half formats on a CPU that computes in float32, eighth formats with or without a scale, and GGUF's blocks:
what is resident has the size of the file, and one layer's whole weight at a time stands beside it.
"""

import math
import threading
from typing import Protocol

import torch
from torch import Tensor

from backend.models.blocks import Packing, unpacked


class Stored(Protocol):
    """A layer whose weight may be stored in another form than it is computed with.

    weight: as it is stored; scale: what eighth formats are multiplied with; packing: how it is packed; None
    for plain ones.
    """

    @property
    def weight(self) -> Tensor: ...

    @property
    def scale(self) -> Tensor | None: ...

    @property
    def packing(self) -> Packing | None: ...


class Scratch:
    """Memory for one whole weight, which the layers of a network take turns in; each thread has its own."""

    def __init__(self) -> None:
        self._held = threading.local()

    def take(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        """A tensor without values. It is the next taker's too."""
        count = math.prod(shape)
        held: Tensor | None = getattr(self._held, "memory", None)
        if held is None or held.dtype != dtype or held.device != device or held.numel() < count:
            held = self._held.memory = torch.empty(count, dtype=dtype, device=device)
        return held[:count].view(shape)


def is_plain(layer: Stored, dtype: torch.dtype) -> bool:
    """Its weight is what it computes with."""
    return layer.weight.dtype == dtype and layer.packing is None and layer.scale is None


def whole(
    layer: Stored, dtype: torch.dtype, scratch: Scratch | None = None, onto: torch.device | None = None
) -> Tensor:
    """The weight that a layer computes with; in the scratch memory, where there is some.

    Of four dimensions, with the channels last. onto: the device it is brought to, from where it is kept.
    """
    weight = layer.weight if onto is None else layer.weight.to(onto, non_blocking=True)
    if layer.packing is not None:
        made = unpacked(weight, layer.packing, dtype)
    elif scratch is None or weight.ndim == 4 or weight.device.type != "cpu":
        last = torch.channels_last if weight.ndim == 4 else torch.contiguous_format
        made = weight.to(dtype, memory_format=last)
    else:
        made = scratch.take(tuple(weight.shape), dtype, weight.device)
        made.copy_(weight)
    return made if layer.scale is None else made.mul_(layer.scale.to(made.device))


def shape_of(layer: Stored) -> tuple[int, ...]:
    """Of the whole weight."""
    return layer.packing.shape if layer.packing is not None else tuple(layer.weight.shape)
