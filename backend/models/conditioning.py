"""What a family makes of a condition: the network's inputs beside the latent, the time and the tokens."""

from collections.abc import Mapping
from dataclasses import field

import torch
from torch import Tensor

from backend.resize import resize
from backend.types import Cond
from backend.values import frozen


@frozen(eq=False)
class Given:
    """A condition and the run it is for.

    cond: with its options by ComfyUI's names; side: the guider's name for it (positive, negative ...);
    latent [B, C, *dims]: what is sampled, in the model's units; mask: where it is sampled, like it, or None.
    """

    cond: Cond
    side: str
    latent: Tensor
    mask: Tensor | None = None

    def number(self, name: str, default: float) -> float:
        """An option that is a number."""
        value = self.cond.options.get(name, default)
        return float(value) if isinstance(value, int | float) else default

    def tensor(self, name: str) -> Tensor | None:
        """An option that is a tensor; None where there is none."""
        value = self.cond.options.get(name)
        return value if isinstance(value, Tensor) else None


@frozen(eq=False)
class Inputs:
    """What `Layout.call` finds in `extra`, by name.

    plain [N, ...]: as they are; placed [N, C, *dims]: for every place of the latent, so that a condition for
    a rectangle gets its part of them. Rows are repeated, or cut, to the batch's. tokens: in place of the
    condition's own.
    """

    plain: Mapping[str, Tensor] = field(default_factory=dict)
    placed: Mapping[str, Tensor] = field(default_factory=dict)
    tokens: Tensor | None = None


NO_INPUTS = Inputs()


def at_size(value: Tensor, latent: Tensor) -> Tensor:
    """[B, C, h, w] in the latent's size and number of rows; rows are spread evenly over the batch."""
    if value.shape[-2:] != latent.shape[-2:]:
        value = resize(value, latent.shape[-1], latent.shape[-2], "bilinear", "center")
    return spread_rows(value, len(latent))


def spread_rows(value: Tensor, rows: int) -> Tensor:
    """[B, ...] -> [rows, ...]: each of the B for an equal stretch, or `rows` of the B at equal distances."""
    count = len(value)
    if count == rows or rows <= 1:
        return value[:rows]
    if rows < count:
        places = [min(round(i * (count - 1) / (rows - 1)), count - 1) for i in range(rows)]
    else:
        places = [min(int((i + 0.5) * count / rows), count - 1) for i in range(rows)]
    return value[torch.tensor(places, device=value.device)]


def rows_of(value: Tensor, rows: int) -> Tensor:
    """[B, ...] -> [rows, ...]: repeated, or cut, as ComfyUI fits a condition to a batch."""
    if len(value) == rows:
        return value
    return value.repeat(-(-rows // len(value)), *[1] * (value.ndim - 1))[:rows]
