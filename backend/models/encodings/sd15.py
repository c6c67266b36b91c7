"""SD 1.x: CLIP-L's last layer, or the one that CLIPSetLastLayer names."""

from collections.abc import Mapping

from backend.models.encoders.clip import Reading, chunks_of, encode
from backend.models.text_encoder import Encoding, Request, Working
from backend.types import Cond


def _encode(encoders: Mapping[str, Working], request: Request) -> tuple[Cond, ...]:
    clip = encoders["clip_l"]
    made = encode(clip, chunks_of(clip, request), Reading(request.stop_at))
    return (Cond(made.tokens, made.projected),)


SD15 = Encoding(_encode, ("clip_l",))
