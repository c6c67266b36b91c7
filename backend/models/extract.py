"""A difference of models as a LoRA: the largest parts of each matrix's singular value decomposition."""

import logging
from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from backend.models.saved import Entry, component_entries, encoder_entries, given
from backend.references import Clip, Model

Kind = Literal["standard", "full_diff"]
_KEPT = 0.99  # values beyond this quantile are clipped, as kohya's and ComfyUI's extraction do
_QUANTILE_LIMIT = 1 << 24  # elements that torch takes the quantile of
_log = logging.getLogger(__name__)


def lora_entries(
    model: Model | None, clip: Clip | None, rank: int, kind: Kind, biases: bool
) -> dict[str, Entry]:
    """What LoraSave writes, float16, by ComfyUI's own names of layers.

    model, clip: differences. kind: "standard" for matrices of at most `rank`, "full_diff" for the differences
    themselves. biases: those of biases and norms too.
    """
    found: dict[str, Entry] = {}
    if model is not None:
        entries = component_entries(model.weights, model.loras)
        found |= dict(_extracted("diffusion_model.", entries, rank, kind, biases))
    if clip is not None:
        found |= dict(_extracted("text_encoders.", encoder_entries(clip), rank, kind, biases))
    return found


def _extracted(
    prefix: str, entries: Mapping[str, Entry], rank: int, kind: Kind, biases: bool
) -> Iterator[tuple[str, Entry]]:
    for name, entry in entries.items():
        layer, _, end = name.rpartition(".")
        if end == "bias" and biases:
            yield f"{prefix}{layer}.diff_b", _half(entry.make())
        elif end != "weight":
            continue
        elif kind == "full_diff" or (len(entry.shape) < 2 and biases):
            yield f"{prefix}{layer}.diff", _half(entry.make())
        elif len(entry.shape) in (2, 4):
            up, down = decomposed(entry.make(), rank)
            if not (up.isfinite().all() and down.isfinite().all()):
                _log.warning("%s: the difference has no decomposition; it is left out", name)
                continue
            yield f"{prefix}{layer}.lora_up.weight", _half(up)
            yield f"{prefix}{layer}.lora_down.weight", _half(down)


def decomposed(difference: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """A matrix [out, in] or kernel [out, in, h, w] -> up [out, r] and down [r, in] ([out, r, 1, 1]
    and [r, in, h, w] of a kernel), r at most `rank`, whose product is nearest to it.
    """
    outputs, inputs = difference.shape[:2]
    rank = min(rank, outputs, inputs)
    left, sizes, right = torch.linalg.svd(difference.float().flatten(1), full_matrices=False)
    up, down = left[:, :rank] * sizes[:rank], right[:rank]
    most = _quantile(torch.cat([up.flatten(), down.flatten()]))
    up, down = up.clamp(-most, most), down.clamp(-most, most)
    if difference.ndim == 4:
        return up.reshape(outputs, rank, 1, 1), down.reshape(rank, *difference.shape[1:])
    return up, down


def _quantile(values: Tensor) -> float:
    if values.numel() > _QUANTILE_LIMIT:
        return float(np.quantile(values.numpy(), _KEPT))
    return float(torch.quantile(values, _KEPT))


def _half(value: Tensor) -> Entry:
    return given(value.to(torch.float16).contiguous())
