"""Wan: UMT5-XXL's tokens, 512 of them; behind the text there are zeros, and nobody looks there."""

from collections.abc import Mapping

from backend.models.encoders import t5
from backend.models.text_encoder import Encoding, Request, Working
from backend.types import Cond

PART = "t5xxl"
_LEAST = 512


def _encode(encoders: Mapping[str, Working], request: Request) -> tuple[Cond, ...]:
    return (Cond(t5.encode(encoders[PART], request, _LEAST, masked=True)),)


WAN = Encoding(_encode, (PART,))
