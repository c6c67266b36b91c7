"""How much attention tokens of text and picture get from each other, as a condition asks for it.

Redux with `attn_bias` asks so. ComfyUI's options hold it for the text and a coarse picture; it is brought to
the picture's own size here.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from backend.errors import UnsupportedOption
from backend.models.conditioning import Given
from backend.models.families.sequence import patches

MASK, MASK_PLACES = "attention_mask", "attention_mask_img_shape"  # ComfyUI's names of the options
OPTIONS = frozenset({MASK, MASK_PLACES})
ATTENTION = "attention"  # the input's name


def bias_inputs(given: Given) -> dict[str, Tensor]:
    """`attention` [N, S, S], added to the attention's logits, row by row of who looks: the text, then the
    picture's patches; nothing where the condition asks for none.
    """
    bias = given.tensor(MASK)
    if bias is None:
        return {}
    places = given.cond.options.get(MASK_PLACES, (1, 1))
    assert isinstance(places, tuple)
    height, width = given.latent.shape[-2:]
    return {ATTENTION: _enlarged(bias.float(), places, (patches(height), patches(width)))}


def bias_of(bias: Tensor | None, length: int) -> Tensor | None:
    """The bias [R, S, S] as attention over `length` tokens takes it: [R, 1, S, S].

    Raises: UnsupportedOption where it is for another number of tokens.
    """
    if bias is None:
        return None
    if bias.shape[-1] != length:
        value = f"for {bias.shape[-1]} tokens where the model has {length}"
        remedy = "Apply the style with strength_type multiply where reference pictures or areas are used too."
        raise UnsupportedOption("attn_bias", value, remedy)
    return bias[:, None]


def _enlarged(bias: Tensor, places: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """[N, t + places, t + places] -> [N, t + size, t + size], between places linearly."""
    if places == size:
        return bias
    text = bias.shape[1] - places[0] * places[1]
    looked_at = _columns(bias, text, places, size)
    return _columns(looked_at.transpose(1, 2), text, places, size).transpose(1, 2).contiguous()


def _columns(bias: Tensor, text: int, places: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """The last dimension's picture in another size."""
    picture = bias[..., text:].unflatten(-1, places)  # type: ignore[no-untyped-call]
    if places == (1, 1):  # not interpolated: nothing times minus infinity is no number
        wide = picture.expand(*picture.shape[:-2], *size)
    else:
        wide = F.interpolate(picture, size=size, mode="bilinear")
    return torch.cat([bias[..., :text], wide.flatten(-2)], dim=-1)
