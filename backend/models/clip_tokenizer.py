"""CLIP's tokenizer, offline: text -> ids of byte pairs. Its only data are the merges in `data/clip`."""

import gzip
import unicodedata
from functools import cache
from pathlib import Path

from tokenizers import Regex, Tokenizer, pre_tokenizers
from tokenizers.models import BPE

START, END = 49406, 49407
_MARKS = ("<|startoftext|>", "<|endoftext|>")
_WORD_END = "</w>"
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"  # from CLIP's own tokenizer
_MERGES = Path(__file__).parent / "data" / "clip" / "merges.txt.gz"
# Ideographs, each a word of its own: what transformers' tokenizer without ftfy does, and ComfyUI with it.
_IDEOGRAPHS = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2CEAF),
    (0x2F800, 0x2FA1F),
)


class ClipTokenizer:
    """One instance serves any number of encoders and threads; making one takes about 0.1 s."""

    def __init__(self) -> None:
        lines = gzip.decompress(_MERGES.read_bytes()).decode().splitlines()[1:]
        merges = [(left, right) for left, right in (line.split() for line in lines if line)]
        letters = byte_letters()
        words = [*letters, *(x + _WORD_END for x in letters), *(a + b for a, b in merges), *_MARKS]
        vocabulary = {word: number for number, word in enumerate(words)}
        self._bpe = Tokenizer(BPE(vocabulary, merges, unk_token=_MARKS[1], end_of_word_suffix=_WORD_END))
        self._bpe.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        self._bpe.add_special_tokens(list(_MARKS))

    def ids(self, text: str) -> list[int]:
        """The ids of a text, without the marks at start and end; a mark written out in it is that mark."""
        return list(self._bpe.encode(clean(text), add_special_tokens=False).ids)


@cache
def shared_tokenizer() -> ClipTokenizer:
    """The one that all encoders have."""
    return ClipTokenizer()


def clean(text: str) -> str:
    """Lower case, composed characters (NFC), single spaces, no control characters, ideographs set apart."""
    kept = (_spaced(char) for char in text if not _dropped(char))
    return " ".join(word.lower() for word in unicodedata.normalize("NFC", "".join(kept)).split())


def _dropped(char: str) -> bool:
    return char == "\ufffd" or (unicodedata.category(char).startswith("C") and char not in "\t\n\r")


def _spaced(char: str) -> str:
    return f" {char} " if any(low <= ord(char) <= high for low, high in _IDEOGRAPHS) else char


def byte_letters() -> list[str]:
    """A printable letter for each byte, in CLIP's order: printable ones first, the rest from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = 256 - len(printable)
    return [chr(byte) for byte in printable] + [chr(0x100 + number) for number in range(others)]
