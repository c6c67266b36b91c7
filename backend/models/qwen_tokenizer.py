"""Qwen's tokenizer (2.5 and 3 alike), offline: text -> ids of byte pairs and of marks written out in it."""

import gzip
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE

from backend.models.clip_tokenizer import byte_letters

PAD, TURN, IMAGE = 151643, 151644, 151655  # <|endoftext|>, <|im_start|>, <|image_pad|>
_MARKS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>"),
    *("<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|vision_pad|>", "<|image_pad|>", "<|video_pad|>", "<tool_call>", "</tool_call>", "<|fim_prefix|>"),
    *("<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"),
)
# From Qwen's own tokenizer.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_MERGES = Path(__file__).parent / "data" / "qwen" / "merges.txt.gz"


class QwenTokenizer:
    """One instance serves any number of encoders and threads; making one takes about 0.5 s."""

    def __init__(self) -> None:
        lines = gzip.decompress(_MERGES.read_bytes()).decode().splitlines()[1:]
        merges = [(left, right) for left, right in (line.split(" ") for line in lines if line)]
        words = [*byte_letters(), *(left + right for left, right in merges)]
        self._bpe = Tokenizer(BPE({word: number for number, word in enumerate(words)}, merges))
        self._bpe.normalizer = normalizers.NFC()
        self._bpe.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        self._bpe.add_tokens([AddedToken(mark, normalized=False, special=True) for mark in _MARKS])

    def ids(self, text: str) -> list[int]:
        return list(self._bpe.encode(text, add_special_tokens=False).ids)
