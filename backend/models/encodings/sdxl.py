"""SDXL: the last layer but one of CLIP-L and of OpenCLIP-bigG side by side, and bigG's projected end mark.

Source: arXiv:2307.01952, section 2.1. The refiner has bigG alone.
"""

from collections.abc import Mapping

import torch

from backend.models.encoders.clip import Reading, chunks_of, encode, padded
from backend.models.text_encoder import Encoding, Request, Working
from backend.types import Cond

_PENULTIMATE = -2


def _reading(request: Request) -> Reading:
    return Reading(_PENULTIMATE if request.stop_at is None else request.stop_at, normed=False)


def _encode(encoders: Mapping[str, Working], request: Request) -> tuple[Cond, ...]:
    small, big = encoders["clip_l"], encoders["clip_g"]
    chunks = [chunks_of(clip, request) for clip in (small, big)]
    if request.texts:  # two texts: the shorter is filled up; one text is cut where embeddings make it longer
        longest = max(map(len, chunks))
        chunks = [padded(some, clip, longest) for some, clip in zip(chunks, (small, big), strict=True)]
    one, other = (
        encode(clip, some, _reading(request)) for some, clip in zip(chunks, (small, big), strict=True)
    )
    length = min(one.tokens.shape[1], other.tokens.shape[1])
    tokens = torch.cat([one.tokens[:, :length], other.tokens[:, :length]], dim=-1)
    return (Cond(tokens, other.projected),)


def _encode_refiner(encoders: Mapping[str, Working], request: Request) -> tuple[Cond, ...]:
    big = encoders["clip_g"]
    made = encode(big, chunks_of(big, request), _reading(request))
    return (Cond(made.tokens, made.projected),)


def _encode_small(encoders: Mapping[str, Working], request: Request) -> tuple[Cond, ...]:
    small = encoders["clip_l"]
    made = encode(small, chunks_of(small, request), _reading(request))
    return (Cond(made.tokens, made.projected),)


SMALL = Encoding(_encode_small, ("clip_l",))  # CLIP-L's half of SDXL's conditions, for node packs
SDXL = Encoding(_encode, ("clip_l", "clip_g"))
REFINER = Encoding(_encode_refiner, ("clip_g",))
