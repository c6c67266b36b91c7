"""SD3: CLIP-L's and bigG's tokens side by side, T5's behind them; any of the three may be missing.

Source: arXiv:2403.03206, section 4.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from backend.models.encoders import t5
from backend.models.encoders.clip import ClipText, Reading, chunks_of, encode, padded
from backend.models.text_encoder import Encoding, Request, Working
from backend.types import Cond

_PENULTIMATE = -2
_WIDTHS = {"clip_l": 768, "clip_g": 1280}
_WIDTH = 4096  # of T5-XXL's tokens: those of both CLIPs are filled up to them with zeros
_LEAST = 77  # tokens of T5


def _encode(encoders: Mapping[str, Working], request: Request) -> tuple[Cond, ...]:
    parts: list[Tensor] = []
    pooled = torch.zeros(1, sum(_WIDTHS.values()))
    if not set(_WIDTHS) <= request.left_out:
        clips = _clips(encoders, request)
        pooled = torch.cat([_pooled(clips.get(name), width) for name, width in _WIDTHS.items()], dim=-1)
        if clips:
            parts.append(_side_by_side(clips))
    long = t5.encode(encoders["t5xxl"], request, _LEAST) if "t5xxl" in encoders else None
    if long is not None:
        parts.append(long)
    width = max([_WIDTH if long is None else long.shape[-1], *(part.shape[-1] for part in parts)])
    filled = [F.pad(part, (0, width - part.shape[-1])) for part in parts]
    return (Cond(torch.cat(filled, dim=1) if filled else torch.zeros(1, _LEAST, width), pooled),)


def _clips(encoders: Mapping[str, Working], request: Request) -> dict[str, ClipText]:
    """What the CLIPs that are there make of their texts, the shorter filled up to the longer."""
    there = {name: encoders[name] for name in _WIDTHS if name in encoders}
    chunks = {
        name: () if name in request.left_out else chunks_of(clip, request) for name, clip in there.items()
    }
    longest = max(map(len, chunks.values()), default=0) if request.texts or request.left_out else 0
    layer = _PENULTIMATE if request.stop_at is None else request.stop_at
    reading = Reading(layer, normed=False)
    return {name: encode(clip, padded(chunks[name], clip, longest), reading) for name, clip in there.items()}


def _side_by_side(clips: Mapping[str, ClipText]) -> Tensor:
    """[1, T, 768 + 1280]; zeros where CLIP-L is missing."""
    if "clip_g" not in clips:
        return clips["clip_l"].tokens
    big = clips["clip_g"].tokens
    if "clip_l" not in clips:
        return F.pad(big, (_WIDTHS["clip_l"], 0))
    small = clips["clip_l"].tokens
    length = min(small.shape[1], big.shape[1])
    return torch.cat([small[:, :length], big[:, :length]], dim=-1)


def _pooled(made: ClipText | None, width: int) -> Tensor:
    if made is None:
        return torch.zeros(1, width)
    return made.pooled if width == _WIDTHS["clip_l"] else made.projected


SD3 = Encoding(_encode, ())
