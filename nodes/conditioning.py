"""Conditioning: encode text, and combine what was encoded."""

import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated

from backend.components import File
from backend.deferred import torch
from backend.node import Choice, Float, Int, String, node
from backend.ops import EncodeText, Op
from backend.references import Clip
from backend.storage import Storage
from backend.types import Cond, Conditioning, Mask

MAX_RESOLUTION = 16384
Strength = Annotated[float, Float(0.0, 10.0, step=0.01)]
Offset = Annotated[int, Int(0, MAX_RESOLUTION, step=8)]
Extent = Annotated[int, Int(64, MAX_RESOLUTION, step=8)]
Fraction = Annotated[float, Float(0, 1.0, step=0.01)]

_EMBEDDING = re.compile(r"embedding:([^\s,():]+)")
_log = logging.getLogger(__name__)


def with_options(conditioning: Conditioning, options: Mapping[str, object]) -> Conditioning:
    """Every condition with options set."""
    return tuple(replace(cond, options={**cond.options, **options}) for cond in conditioning)


@node("CLIPTextEncode", category="conditioning", display_name="CLIP Text Encode (Prompt)")
def clip_text_encode(
    *, text: Annotated[str, String(multiline=True, dynamic_prompts=True)], clip: Clip, storage: Storage
) -> Op[Conditioning]:
    """Encode a prompt. `(words:1.2)` weighs them, `embedding:name` inserts a textual inversion."""
    return EncodeText(clip, text, embeddings_in(text, storage))


def embeddings_in(text: str, storage: Storage) -> tuple[File, ...]:
    """The files of the textual inversions that a prompt names; the encoder reports those that are missing."""
    if "embedding:" not in text:
        return ()
    found = (storage.embedding(name) for name in _EMBEDDING.findall(text))
    return tuple(storage.file("embeddings", name) for name in found if name is not None)


@node("ConditioningCombine", category="conditioning", display_name="Conditioning (Combine)")
def conditioning_combine(*, conditioning_1: Conditioning, conditioning_2: Conditioning) -> Conditioning:
    """Both: each is predicted by itself and the predictions are averaged."""
    return (*conditioning_1, *conditioning_2)


@node("ConditioningConcat", category="conditioning", display_name="Conditioning (Concat)")
def conditioning_concat(*, conditioning_to: Conditioning, conditioning_from: Conditioning) -> Conditioning:
    """The tokens of `conditioning_from` appended to those of each condition."""
    tail = _only(conditioning_from, "ConditioningConcat").tokens
    return tuple(replace(cond, tokens=torch.cat((cond.tokens, tail), 1)) for cond in conditioning_to)


@node("ConditioningAverage", category="conditioning")
def conditioning_average(
    *,
    conditioning_to: Conditioning,
    conditioning_from: Conditioning,
    conditioning_to_strength: Annotated[float, Float(0.0, 1.0, step=0.01)] = 1.0,
) -> Conditioning:
    """Each condition mixed with `conditioning_from`, which is cut or filled with zeros to its length."""
    other = _only(conditioning_from, "ConditioningAverage")
    share = conditioning_to_strength
    mixed = []
    for cond in conditioning_to:
        tokens = other.tokens[:, : cond.tokens.shape[1]]
        missing = cond.tokens.shape[1] - tokens.shape[1]
        tokens = torch.nn.functional.pad(tokens, (0, 0, 0, missing))
        pooled = cond.pooled
        if other.pooled is not None:
            own = other.pooled if pooled is None else pooled
            pooled = own * share + other.pooled * (1.0 - share)
        mixed.append(replace(cond, tokens=cond.tokens * share + tokens * (1.0 - share), pooled=pooled))
    return tuple(mixed)


def _only(conditioning: Conditioning, node_name: str) -> Cond:
    """The first condition: the only one that is used."""
    if not conditioning:
        raise ValueError(f"{node_name}: conditioning_from is empty. Connect a node that encodes a text.")
    if len(conditioning) > 1:
        _log.warning(
            "%s: conditioning_from has %d conditions; only the first is used", node_name, len(conditioning)
        )
    return conditioning[0]


@node("ConditioningZeroOut", category="advanced/conditioning")
def conditioning_zero_out(*, conditioning: Conditioning) -> Conditioning:
    """The same conditions with all encodings zero."""
    return tuple(_zeroed(cond) for cond in conditioning)


def _zeroed(cond: Cond) -> Cond:
    options = {
        # Some audio models encode lyrics beside the text.
        name: torch.zeros_like(value)
        if name == "conditioning_lyrics" and isinstance(value, torch.Tensor)
        else value
        for name, value in cond.options.items()
    }
    pooled = None if cond.pooled is None else torch.zeros_like(cond.pooled)
    return Cond(torch.zeros_like(cond.tokens), pooled, options)


@node("ConditioningSetArea", category="conditioning", display_name="Conditioning (Set Area)")
def conditioning_set_area(
    *,
    conditioning: Conditioning,
    width: Extent = 64,
    height: Extent = 64,
    x: Offset = 0,
    y: Offset = 0,
    strength: Strength = 1.0,
) -> Conditioning:
    """Apply within a rectangle, given in pixels of an 8-fold latent."""
    area = (height // 8, width // 8, y // 8, x // 8)
    return with_options(conditioning, {"area": area, "strength": strength, "set_area_to_bounds": False})


@node(
    "ConditioningSetAreaPercentage",
    category="conditioning",
    display_name="Conditioning (Set Area with Percentage)",
)
def conditioning_set_area_percentage(
    *,
    conditioning: Conditioning,
    width: Fraction = 1.0,
    height: Fraction = 1.0,
    x: Fraction = 0,
    y: Fraction = 0,
    strength: Strength = 1.0,
) -> Conditioning:
    """Apply within a rectangle, given as parts of the picture."""
    area = ("percentage", height, width, y, x)
    return with_options(conditioning, {"area": area, "strength": strength, "set_area_to_bounds": False})


@node("ConditioningSetAreaStrength", category="conditioning")
def conditioning_set_area_strength(*, conditioning: Conditioning, strength: Strength = 1.0) -> Conditioning:
    """How much the condition counts where it applies."""
    return with_options(conditioning, {"strength": strength})


@node("ConditioningSetMask", category="conditioning", display_name="Conditioning (Set Mask)")
def conditioning_set_mask(
    *,
    conditioning: Conditioning,
    mask: Mask,
    strength: Strength = 1.0,
    set_cond_area: Annotated[str, Choice(("default", "mask bounds"))],
) -> Conditioning:
    """Apply within a mask; "mask bounds" computes only the rectangle around it."""
    options = {
        "mask": mask if mask.ndim >= 3 else mask.unsqueeze(0),
        "set_area_to_bounds": set_cond_area != "default",
        "mask_strength": strength,
    }
    return with_options(conditioning, options)


@node("ConditioningSetTimestepRange", category="advanced/conditioning")
def conditioning_set_timestep_range(
    *,
    conditioning: Conditioning,
    start: Annotated[float, Float(0.0, 1.0, step=0.001)] = 0.0,
    end: Annotated[float, Float(0.0, 1.0, step=0.001)] = 1.0,
) -> Conditioning:
    """Apply in a part of the sampling: 0 is its start, 1 its end."""
    return with_options(conditioning, {"start_percent": start, "end_percent": end})
