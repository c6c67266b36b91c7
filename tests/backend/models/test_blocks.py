"""Blocks are read as their formats say: each value here is worked out by hand, one number at a time."""

import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.models.blocks import BLOCKS, Packing, unpacked


def half(value: float) -> bytes:
    return struct.pack("<e", value)


def read(kind: str, data: bytes) -> list[float]:
    return BLOCKS[kind].read(torch.tensor(list(data), dtype=torch.uint8)[None])[0].tolist()


bytes_of = st.binary(min_size=256, max_size=256)


@settings(max_examples=25)
@given(bytes_of)
def test_blocks_of_32(raw: bytes):
    nibbles = [*(b & 15 for b in raw[:16]), *(b >> 4 for b in raw[:16])]
    bits = int.from_bytes(raw[16:20], "little")
    fives = [n | (bits >> i & 1) << 4 for i, n in enumerate(nibbles)]
    assert read("Q4_0", half(0.5) + raw[:16]) == [(n - 8) * 0.5 for n in nibbles]
    assert read("Q4_1", half(0.5) + half(-2) + raw[:16]) == [n * 0.5 - 2 for n in nibbles]
    assert read("Q5_0", half(0.5) + raw[16:20] + raw[:16]) == [(n - 16) * 0.5 for n in fives]
    assert read("Q5_1", half(0.5) + half(-2) + raw[16:20] + raw[:16]) == [n * 0.5 - 2 for n in fives]
    signed = [b - 256 if b > 127 else b for b in raw[:32]]
    assert read("Q8_0", half(0.5) + raw[:32]) == [b * 0.5 for b in signed]


def sixes(packed: bytes) -> list[tuple[int, int]]:
    """Scale and least value of each of the eight parts of a K block of four or five bits."""
    low = [(packed[j] & 63, packed[j + 4] & 63) for j in range(4)]
    high = [
        ((packed[j + 8] & 15) | (packed[j] >> 6) << 4, (packed[j + 8] >> 4) | (packed[j + 4] >> 6) << 4)
        for j in range(4)
    ]
    return low + high


@settings(max_examples=25)
@given(bytes_of)
def test_k_blocks_of_four_and_five_bits(raw: bytes):
    scales, values, high = sixes(raw[:12]), raw[12:140], raw[140:172]
    nibble = lambda i: values[i // 64 * 32 + i % 32] >> (4 if i % 64 >= 32 else 0) & 15  # noqa: E731
    wanted = [nibble(i) * scales[i // 32][0] * 0.5 - scales[i // 32][1] * 2.0 for i in range(256)]
    assert read("Q4_K", half(0.5) + half(2) + raw[:12] + values) == wanted
    five = lambda i: nibble(i) | (high[i % 32] >> (i // 32) & 1) << 4  # noqa: E731
    wanted = [five(i) * scales[i // 32][0] * 0.5 - scales[i // 32][1] * 2.0 for i in range(256)]
    assert read("Q5_K", half(0.5) + half(2) + raw[:12] + high + values) == wanted


@settings(max_examples=25)
@given(bytes_of)
def test_k_blocks_of_six_and_two_bits(raw: bytes):
    low, high, scales = raw[:128], raw[128:192], [b - 128 for b in raw[192:208]]

    def six(i: int) -> int:
        part, place = divmod(i, 128)
        group, column = divmod(place, 32)
        nibble = low[part * 64 + (group % 2) * 32 + column] >> (4 if group >= 2 else 0) & 15
        return (nibble | (high[part * 32 + column] >> (2 * group) & 3) << 4) - 32

    stored = bytes(s % 256 for s in scales)
    wanted = [six(i) * scales[i // 16] * 0.5 for i in range(256)]
    assert read("Q6_K", low + high + stored + half(0.5)) == wanted
    quarter = lambda i: raw[16 + i // 128 * 32 + i % 32] >> (2 * (i % 128 // 32)) & 3  # noqa: E731
    wanted = [quarter(i) * (raw[i // 16] & 15) * 0.5 - (raw[i // 16] >> 4) * 2.0 for i in range(256)]
    assert read("Q2_K", raw[:80] + half(0.5) + half(2)) == wanted


@settings(deadline=None, max_examples=25)
@given(bytes_of)
def test_four_bits_that_stand_for_uneven_levels(raw: bytes):
    levels = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]
    nibbles = [*(b & 15 for b in raw[:16]), *(b >> 4 for b in raw[:16])]
    assert read("IQ4_NL", half(0.5) + raw[:16]) == [levels[n] * 0.5 for n in nibbles]
    high, low, values = int.from_bytes(raw[:2], "little"), raw[2:6], raw[6:134]
    wanted = []
    for part in range(8):
        scale = (low[part // 2] >> (4 * (part % 2)) & 15) | (high >> (2 * part) & 3) << 4
        packed = values[16 * part : 16 * part + 16]
        numbers = [*(b & 15 for b in packed), *(b >> 4 for b in packed)]
        wanted += [levels[n] * (scale - 32) * 0.5 for n in numbers]
    assert read("IQ4_XS", half(0.5) + raw[:134]) == wanted


def test_three_bits_have_their_highest_apart():
    high, low, scales = bytes([0b1] * 32), bytes([0b11100100] * 64), bytes([1] * 8 + [0b10101010] * 4)
    found = read("Q3_K", high + low + scales + half(1))
    # scales: low halves 1 then 0, high bits 2: 33 - 32 = 1 and 32 - 32 = 0
    assert found[:32] == [0.0] * 32
    assert found[32:64] == [1 - 4.0] * 32
    assert found[128:] == [0.0] * 128


@pytest.mark.parametrize("kind", BLOCKS)
def test_rows_keep_their_order_and_shape(kind: str):
    block = BLOCKS[kind]
    rows = torch.randint(0, 100, (3, 2 * block.nbytes), dtype=torch.uint8)
    found = unpacked(rows, Packing(kind, (3, 2 * block.weights)), torch.float32)
    assert found.shape == (3, 2 * block.weights)
    alone = unpacked(rows[1:2], Packing(kind, (1, 2 * block.weights)), torch.float32)
    assert torch.equal(found[1:2].nan_to_num(), alone.nan_to_num())
