"""Batches of latents: taken apart and put together."""

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from backend.node import Int, node
from backend.types import Latent

if TYPE_CHECKING:
    from torch import Tensor


@node("LatentFromBatch", category="latent/batch", display_name="Latent From Batch")
def latent_from_batch(
    *, samples: Latent, batch_index: Annotated[int, Int(0, 63)] = 0, length: Annotated[int, Int(1, 64)] = 1
) -> Latent:
    """A part of a batch. Its rows keep their indexes, and so the noise they would have in the whole."""
    rows = samples.samples.shape[0]
    first = min(rows - 1, batch_index)
    last = first + min(rows - first, length)
    mask = samples.noise_mask
    if mask is not None and mask.shape[0] > 1:
        mask = _filled(mask, rows)[first:last]
    indexes = tuple(range(rows)) if samples.batch_index is None else samples.batch_index
    return replace(
        samples, samples=samples.samples[first:last], noise_mask=mask, batch_index=indexes[first:last]
    )


@node("RepeatLatentBatch", category="latent/batch", display_name="Repeat Latent Batch")
def repeat_latent_batch(*, samples: Latent, amount: Annotated[int, Int(1, 64)] = 1) -> Latent:
    """The batch, `amount` times over."""
    mask = samples.noise_mask
    if mask is not None and mask.shape[0] > 1:
        mask = _repeated(mask, amount)
    indexes = samples.batch_index
    if indexes is not None:
        span = max(indexes) - min(indexes) + 1
        indexes = tuple(index + turn * span for turn in range(amount) for index in indexes)
    return replace(samples, samples=_repeated(samples.samples, amount), noise_mask=mask, batch_index=indexes)


def _repeated(batch: "Tensor", amount: int) -> "Tensor":
    return batch.repeat((amount,) + (1,) * (batch.ndim - 1))


def _filled(batch: "Tensor", rows: int) -> "Tensor":
    """At least `rows` rows, by repetition."""
    if batch.shape[0] >= rows:
        return batch
    return _repeated(batch, math.ceil(rows / batch.shape[0]))[:rows]
