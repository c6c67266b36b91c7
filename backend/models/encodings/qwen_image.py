"""Qwen-Image: Qwen2.5-VL's last layer for the text in a frame of instructions, which is cut off again.

The frames are those the models were trained with: arXiv:2508.02324, figures 5 and 15.
"""

from collections.abc import Mapping, Sequence

from backend.models.encoders import qwen
from backend.models.qwen_tokenizer import TURN
from backend.models.text_encoder import Encoding, Request, Working
from backend.models.text_places import EDIT_FRAME
from backend.types import Cond

PART = "qwen25_7b"
_USER, _LINE = 872, 198  # "user" and a line's end
_PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"
_OWN = ("<|im_start|>", "<|start_header_id|>")  # beginnings of texts that bring their own frame
_FRAME = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, "
    "spatial relationships of the objects and background:<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n"
    "<|im_start|>assistant\n"
)


def _encode(encoders: Mapping[str, Working], request: Request) -> tuple[Cond, ...]:
    text = qwen.chosen(request, PART)
    if not text.startswith(_OWN):
        text = EDIT_FRAME.format(_PICTURE + text) if request.images else _FRAME.format(text)
    made = qwen.encode(encoders[PART], text, request.images, request.stop_at)
    first = _first(made.ids, made.hidden.shape[1])
    return (Cond(made.hidden[:, first:]),)


def _first(ids: Sequence[int], length: int) -> int:
    """Where the user's words begin: behind the second turn's mark, and its "user" where they follow it."""
    turns = [place for place, number in enumerate(ids) if number == TURN][:2]
    start = turns[-1] if turns else -1
    told = list(ids[start + 1 : start + 3]) == [_USER, _LINE]
    return start + 3 if told and length > start + 3 else start


QWEN_IMAGE = Encoding(_encode, (PART,))
