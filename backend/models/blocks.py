"""GGUF's blocks: runs of 32 or 256 weights of a row, each with scales of its own -> numbers again.

Source: the layouts of https://github.com/ggml-org/ggml, docs and ggml-common.h. Names are ggml's.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from backend.models.gguf import SIZES
from backend.values import frozen

# Of ggml's formats of four bits that are not evenly spaced.
_LEVELS = tuple(map(float, (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)))


@frozen
class Packing:
    """kind: ggml's name of the format; shape: of the weights."""

    kind: str
    shape: tuple[int, ...]


@frozen
class Block:
    """weights: how many a block has; nbytes: that it takes; read: blocks uint8 [n, nbytes] -> float32 [n,
    weights].
    """

    weights: int
    nbytes: int
    read: Callable[[Tensor], Tensor]


def unpacked(rows: Tensor, packing: Packing, dtype: torch.dtype) -> Tensor:
    """rows uint8 [out, bytes of a row] -> the weights, in their shape."""
    block = BLOCKS[packing.kind]
    return block.read(rows.reshape(-1, block.nbytes)).to(dtype).reshape(packing.shape)


def _half(blocks: Tensor, at: int) -> Tensor:
    """A float16 in each block: float32 [n, 1]."""
    return blocks[:, at : at + 2].contiguous().view(torch.float16).float()


def _nibbles(values: Tensor) -> Tensor:
    """uint8 [n, k] -> [n, 2 k]: all low halves, then all high ones."""
    return torch.cat([values & 15, values >> 4], dim=-1)


def _high_bits(blocks: Tensor, at: int) -> Tensor:
    """The fifth bits of 32 weights, in four bytes: [n, 32], 16 or 0."""
    shifts = torch.arange(8, device=blocks.device, dtype=torch.uint8)
    bits = (blocks[:, at : at + 4, None] >> shifts) & 1
    return bits.flatten(1) << 4


def _q4_0(blocks: Tensor) -> Tensor:
    return (_nibbles(blocks[:, 2:]).float() - 8) * _half(blocks, 0)


def _q4_1(blocks: Tensor) -> Tensor:
    return _nibbles(blocks[:, 4:]).float() * _half(blocks, 0) + _half(blocks, 2)


def _q5_0(blocks: Tensor) -> Tensor:
    return ((_nibbles(blocks[:, 6:]) | _high_bits(blocks, 2)).float() - 16) * _half(blocks, 0)


def _q5_1(blocks: Tensor) -> Tensor:
    return (_nibbles(blocks[:, 8:]) | _high_bits(blocks, 4)).float() * _half(blocks, 0) + _half(blocks, 2)


def _q8_0(blocks: Tensor) -> Tensor:
    return blocks[:, 2:].contiguous().view(torch.int8).float() * _half(blocks, 0)


def _scales_and_least(packed: Tensor) -> tuple[Tensor, Tensor]:
    """12 bytes of K blocks -> eight scales and eight least values of six bits, float32 [n, 8, 1] each."""
    low, middle, high = packed.reshape(-1, 3, 4).unbind(1)
    scale = torch.cat([low & 63, (high & 15) | ((low >> 2) & 48)], dim=-1)
    least = torch.cat([middle & 63, (high >> 4) | ((middle >> 2) & 48)], dim=-1)
    return scale.float()[..., None], least.float()[..., None]


def _q4_k(blocks: Tensor) -> Tensor:
    scale, least = _scales_and_least(blocks[:, 4:16])
    values = blocks[:, 16:].reshape(-1, 4, 1, 32) >> _shifts(blocks, 0, 4) & 15
    values = values.reshape(-1, 8, 32).float()
    return (values * scale * _half(blocks, 0)[..., None] - least * _half(blocks, 2)[..., None]).flatten(1)


def _q5_k(blocks: Tensor) -> Tensor:
    scale, least = _scales_and_least(blocks[:, 4:16])
    low = (blocks[:, 48:].reshape(-1, 4, 1, 32) >> _shifts(blocks, 0, 4) & 15).reshape(-1, 8, 32)
    high = (blocks[:, 16:48].reshape(-1, 1, 32) >> _shifts(blocks, *range(8))) & 1
    values = (low | (high << 4)).float()
    return (values * scale * _half(blocks, 0)[..., None] - least * _half(blocks, 2)[..., None]).flatten(1)


def _q6_k(blocks: Tensor) -> Tensor:
    low = (blocks[:, :128].reshape(-1, 2, 1, 64) >> _shifts(blocks, 0, 4) & 15).reshape(-1, 8, 32)
    high = (blocks[:, 128:192].reshape(-1, 2, 1, 32) >> _shifts(blocks, 0, 2, 4, 6) & 3).reshape(-1, 8, 32)
    values = (low | (high << 4)).float().reshape(-1, 16, 16) - 32
    scale = blocks[:, 192:208].contiguous().view(torch.int8).float()[..., None]
    return (values * scale * _half(blocks, 208)[..., None]).flatten(1)


def _q3_k(blocks: Tensor) -> Tensor:
    low = (blocks[:, 32:96].reshape(-1, 2, 1, 32) >> _shifts(blocks, 0, 2, 4, 6) & 3).reshape(-1, 16, 16)
    high = (blocks[:, :32].reshape(-1, 1, 32) >> _shifts(blocks, *range(8)) & 1).reshape(-1, 16, 16)
    values = low.float() - (1 - high.float()) * 4
    packed = blocks[:, 96:108]
    lows = _nibbles(packed[:, :8])
    highs = (packed[:, 8:].reshape(-1, 1, 4) >> _shifts(blocks, 0, 2, 4, 6) & 3).reshape(-1, 16)
    scale = ((lows | (highs << 4)).float() - 32)[..., None]
    return (values * scale * _half(blocks, 108)[..., None]).flatten(1)


def _q2_k(blocks: Tensor) -> Tensor:
    scale, least = (blocks[:, :16] & 15).float()[..., None], (blocks[:, :16] >> 4).float()[..., None]
    values = (blocks[:, 16:80].reshape(-1, 2, 1, 32) >> _shifts(blocks, 0, 2, 4, 6) & 3).reshape(-1, 16, 16)
    made = values.float() * scale * _half(blocks, 80)[..., None] - least * _half(blocks, 82)[..., None]
    return made.flatten(1)


def _iq4(nibbles: Tensor) -> Tensor:
    """What four bits stand for: levels that lie closer together near zero."""
    return torch.tensor(_LEVELS, device=nibbles.device)[nibbles.int()]


def _iq4_nl(blocks: Tensor) -> Tensor:
    return _iq4(_nibbles(blocks[:, 2:])) * _half(blocks, 0)


def _iq4_xs(blocks: Tensor) -> Tensor:
    low = (blocks[:, 4:8, None] >> _shifts(blocks, 0, 4)[:, 0] & 15).flatten(1)
    high = (blocks[:, 2:4, None] >> _shifts(blocks, 0, 2, 4, 6)[:, 0] & 3).flatten(1)
    scale = ((low | (high << 4)).float() - 32)[..., None]
    values = _iq4(_nibbles(blocks[:, 8:].reshape(-1, 8, 16)))
    return (values * scale * _half(blocks, 0)[..., None]).flatten(1)


def _shifts(like: Tensor, *bits: int) -> Tensor:
    """[len(bits), 1], to be shifted by."""
    return torch.tensor(bits, device=like.device, dtype=torch.uint8)[:, None]


_READERS = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
    "IQ4_NL": _iq4_nl,
    "IQ4_XS": _iq4_xs,
}
BLOCKS: Mapping[str, Block] = {kind: Block(*SIZES[kind], read) for kind, read in _READERS.items()}
