"""Z-Image: Qwen3's last layer but one, for the text as a user's words."""

from collections.abc import Mapping

from backend.models.encoders import qwen
from backend.models.text_encoder import Encoding, Request, Working
from backend.types import Cond

PART = "qwen3_4b"
_PENULTIMATE = -2


def _encode(encoders: Mapping[str, Working], request: Request) -> tuple[Cond, ...]:
    text = f"<|im_start|>user\n{qwen.chosen(request, PART)}<|im_end|>\n<|im_start|>assistant\n"
    layer = _PENULTIMATE if request.stop_at is None else request.stop_at
    return (Cond(qwen.encode(encoders[PART], text, (), layer).hidden),)


Z_IMAGE = Encoding(_encode, (PART,))
