"""Flux.1: T5's tokens, and the end mark of CLIP-L."""

from collections.abc import Mapping

from backend.models.encoders import t5
from backend.models.encoders.clip import Reading, chunks_of, encode
from backend.models.text_encoder import Encoding, Request, Working
from backend.types import Cond

_LEAST = 256  # tokens of T5


def _encode(encoders: Mapping[str, Working], request: Request) -> tuple[Cond, ...]:
    clip = encoders["clip_l"]
    pooled = encode(clip, chunks_of(clip, request), Reading()).pooled
    return (Cond(t5.encode(encoders["t5xxl"], request, _LEAST), pooled),)


FLUX = Encoding(_encode, ("clip_l", "t5xxl"))
