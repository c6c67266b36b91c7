"""Batches of latents: taken apart and put together."""

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from backend.deferred import torch
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


@node(
    "RebatchLatents",
    category="latent/batch",
    display_name="Rebatch Latents",
    module="comfy_extras.nodes_rebatch",
)
def rebatch_latents(
    *,
    latents: list[Latent],
    batch_size: list[Annotated[int, Int(1, 4096)]] = 1,  # type: ignore[assignment]  # the default is a widget's
) -> list[Latent]:
    """Batches of another size; where the size of the pictures changes, a new batch begins."""
    batches: list[Latent] = []
    rest: Latent | None = None
    seen = 0
    for latent in latents:
        whole = _whole(latent, seen)
        seen += len(whole.samples)
        if rest is not None and rest.samples.shape[-2:] != whole.samples.shape[-2:]:
            batches.append(rest)
            rest = None
        rest = whole if rest is None else _appended(rest, whole)
        while rest is not None and len(rest.samples) > batch_size[0]:
            batches.append(_rows(rest, 0, batch_size[0]))
            rest = _rows(rest, batch_size[0], len(rest.samples))
    if rest is not None:
        batches.append(rest)
    return [_unmasked(batch) for batch in batches]


def _whole(latent: Latent, first: int) -> Latent:
    """With a mask and an index for each row; rows without an index count on from `first`."""
    samples, mask = latent.samples, latent.noise_mask
    rows = len(samples)
    if mask is None:
        mask = torch.ones((rows, 1, samples.shape[2] * 8, samples.shape[3] * 8))
    indexes = latent.batch_index or tuple(range(first, first + rows))
    return Latent(samples, _filled(mask, rows), indexes)


def _appended(first: Latent, second: Latent) -> Latent:
    assert first.noise_mask is not None
    assert second.noise_mask is not None
    assert first.batch_index is not None
    assert second.batch_index is not None
    mask = second.noise_mask
    if mask.shape[1:] != first.noise_mask.shape[1:]:
        mask = mask.reshape(-1, 1, *mask.shape[-2:])
        mask = torch.nn.functional.interpolate(mask, size=first.noise_mask.shape[-2:], mode="bilinear")
    return Latent(
        torch.cat((first.samples, second.samples)),
        torch.cat((first.noise_mask, mask)),
        first.batch_index + second.batch_index,
    )


def _rows(latent: Latent, start: int, stop: int) -> Latent:
    assert latent.noise_mask is not None
    assert latent.batch_index is not None
    mask = latent.noise_mask[start:stop]
    return Latent(latent.samples[start:stop], mask, latent.batch_index[start:stop])


def _unmasked(latent: Latent) -> Latent:
    """Without a mask that is 1 everywhere."""
    assert latent.noise_mask is not None
    return replace(latent, noise_mask=None) if latent.noise_mask.mean() == 1.0 else latent
