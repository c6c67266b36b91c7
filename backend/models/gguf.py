"""GGUF files: their table of contents, as that of any other model file. Without torch.

Source of the format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Names of text encoders are
llama.cpp's there, and become transformers' here; those of diffusion models are the original checkpoints'.
"""

import math
import os
import re
import struct
from collections.abc import Mapping
from typing import BinaryIO

from backend.errors import BadFile
from backend.models.header import Header, TensorInfo

# ggml's formats of blocks: how many weights a block has, and its bytes.
SIZES: Mapping[str, tuple[int, int]] = {
    "Q4_0": (32, 18),
    "Q4_1": (32, 20),
    "Q5_0": (32, 22),
    "Q5_1": (32, 24),
    "Q8_0": (32, 34),
    "Q2_K": (256, 84),
    "Q3_K": (256, 110),
    "Q4_K": (256, 144),
    "Q5_K": (256, 176),
    "Q6_K": (256, 210),
    "IQ4_NL": (32, 18),
    "IQ4_XS": (256, 136),
}
_KINDS = {
    **{0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 10: "Q2_K", 11: "Q3_K"},
    **{12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 20: "IQ4_NL", 23: "IQ4_XS"},
    **{24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 30: "BF16"},
}
_WIDTHS = {"F32": 4, "F16": 2, "BF16": 2, "I8": 1, "I16": 2, "I32": 4, "I64": 8, "F64": 8}
_SIMPLE = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _LIST = 8, 9
_MOST = 1 << 28  # bytes or entries of one text or list: more is damage
_AGAIN = "Download or copy the file again."
_SHAPE = "comfy.gguf.orig_shape."  # a tensor's own shape, where it was stored in another
# llama.cpp's names -> transformers', of T5 and of Qwen.
_T5 = (
    ("enc.blk.", "encoder.block."),
    ("enc.output_norm", "encoder.final_layer_norm"),
    ("token_embd", "shared"),
    (".attn_rel_b", ".layer.0.SelfAttention.relative_attention_bias"),
    (".attn_norm", ".layer.0.layer_norm"),
    (".ffn_norm", ".layer.1.layer_norm"),
    (".ffn_gate", ".layer.1.DenseReluDense.wi_0"),
    (".ffn_up", ".layer.1.DenseReluDense.wi_1"),
    (".ffn_down", ".layer.1.DenseReluDense.wo"),
    *((f".attn_{x}.", f".layer.0.SelfAttention.{x}.") for x in "qkvo"),
)
_QWEN = (
    ("blk.", "model.layers."),
    ("token_embd", "model.embed_tokens"),
    ("output_norm", "model.norm"),
    ("output.weight", "lm_head.weight"),
    (".attn_q_norm", ".self_attn.q_norm"),
    (".attn_k_norm", ".self_attn.k_norm"),
    (".attn_norm", ".input_layernorm"),
    (".attn_output", ".self_attn.o_proj"),
    (".ffn_norm", ".post_attention_layernorm"),
    *((f".ffn_{x}.", f".mlp.{x}_proj.") for x in ("gate", "up", "down")),
    *((f".attn_{x}.", f".self_attn.{x}_proj.") for x in "qkv"),
)
_BEGINNING = re.compile(r"^(enc\.)?(blk\.|token_embd|output)")


def is_gguf(path: str) -> bool:
    return path.lower().endswith(".gguf")


def read_gguf(path: str) -> Header:
    """The table of contents; a tensor's dtype is safetensors' name of it, or ggml's, where it is in blocks.

    Raises: BadFile where the file is missing, damaged, of another version, or has formats that are not known.
    """
    try:
        with open(path, "rb") as stream:
            return _Reader(path, stream).header()
    except OSError as error:
        raise BadFile(path, error.strerror or str(error), "Check the name and the permissions.") from error
    except (struct.error, UnicodeDecodeError) as error:
        raise BadFile(path, f"its table of contents is damaged ({error})", _AGAIN) from error


class _Reader:
    def __init__(self, path: str, stream: BinaryIO) -> None:
        self._path, self._stream = path, stream

    def header(self) -> Header:
        magic, version = self._stream.read(4), self._number("I")
        if magic != b"GGUF" or version not in (2, 3):
            raise BadFile(self._path, "this is no GGUF file of version 2 or 3", "Use a newer file.")
        tensors, entries = self._number("Q"), self._number("Q")
        facts = dict(self._fact() for _ in range(self._sane(entries)))
        listed = [self._tensor() for _ in range(self._sane(tensors))]
        alignment = facts.get("general.alignment", 32)
        start = -(-self._stream.tell() // int(str(alignment))) * int(str(alignment))
        size = os.fstat(self._stream.fileno()).st_size
        found: dict[str, TensorInfo] = {}
        table = _T5 if any(name.startswith("enc.") for name, *_ in listed) else _QWEN
        for name, kind, stored, offset in listed:
            shape = facts.get(_SHAPE + name, stored)
            span = (start + offset, start + offset + _nbytes(kind, stored))
            if span[1] > size:
                raise BadFile(self._path, f"the file ends within tensor {name!r}", _AGAIN)
            found[_renamed(name, table)] = TensorInfo(kind, tuple(map(int, shape)), span)  # type: ignore[call-overload]  # of ints
        return Header(self._path, found)

    def _tensor(self) -> tuple[str, str, tuple[int, ...], int]:
        name = self._text()
        dims = [self._number("Q") for _ in range(self._number("I"))]
        number, offset = self._number("I"), self._number("Q")
        if number not in _KINDS:
            known = ", ".join(kind for kind in SIZES)
            raise BadFile(
                self._path, f"tensor {name!r} has ggml's format {number}", f"Use one of: {known}, F16, BF16."
            )
        return name, _KINDS[number], tuple(reversed(dims)), offset

    def _fact(self) -> tuple[str, object]:
        name = self._text()
        return name, self._value(self._number("I"))

    def _value(self, kind: int) -> object:
        if kind == _TEXT:
            return self._text()
        if kind == _LIST:
            inner, count = self._number("I"), self._sane(self._number("Q"))
            return [self._value(inner) for _ in range(count)]
        if kind not in _SIMPLE:
            raise BadFile(self._path, f"its table of contents has a value of kind {kind}", _AGAIN)
        return self._number(_SIMPLE[kind])

    def _text(self) -> str:
        return self._stream.read(self._sane(self._number("Q"))).decode("utf-8", "replace")

    def _number(self, form: str) -> int:
        (value,) = struct.unpack(f"<{form}", self._stream.read(struct.calcsize(f"<{form}")))
        return value  # type: ignore[no-any-return]  # counts and sizes are

    def _sane(self, count: int) -> int:
        if count > _MOST:
            raise BadFile(self._path, f"its table of contents is damaged ({count} entries)", _AGAIN)
        return count


def row_bytes(kind: str, length: int) -> int:
    """Bytes of so many weights that stand in a row."""
    weights, nbytes = SIZES.get(kind, (1, _WIDTHS.get(kind, 1)))
    return length // weights * nbytes


def _nbytes(kind: str, shape: tuple[int, ...]) -> int:
    return math.prod(shape[:-1]) * row_bytes(kind, shape[-1]) if shape else row_bytes(kind, 1)


def _renamed(name: str, table: tuple[tuple[str, str], ...]) -> str:
    if not _BEGINNING.match(name):
        return name
    for theirs, ours in table:
        name = name.replace(theirs, ours, 1)
    return name
