"""Prompts: weights in parentheses, embeddings by name, and chunks of 75 tokens, as ComfyUI has them."""

import logging
import re
from collections.abc import Callable, Sequence
from typing import TypeAlias

from torch import Tensor

from backend.values import frozen

_log = logging.getLogger(__name__)
_EMBEDDING = "embedding:"
_WHOLE = 8  # a group of fewer tokens than this is moved to the next chunk rather than cut
_ESCAPES = (("\\)", "\0\1", ")"), ("\\(", "\0\2", "("))


@frozen(eq=False)
class Token:
    """value: an id, or a vector [C] of an embedding; weight: 1 is neutral."""

    value: int | Tensor
    weight: float = 1.0
    word: int = 0  # tokens of one word have one number, from 1; 0: padding and marks


Chunk: TypeAlias = tuple[Token, ...]
FindVectors: TypeAlias = Callable[[str], Tensor | None]  # an embedding's name -> float [n, C]


@frozen
class Marks:
    """Ids around a chunk (None: no such mark), and its length with them.

    length: None for one chunk of any length; then it is followed by `padding` pads, and has at least `least`
    tokens.
    """

    start: int | None
    end: int | None
    pad: int
    length: int | None = 77
    least: int = 0
    padding: int = 0


def weigh(text: str) -> list[tuple[str, float]]:
    """The pieces of a prompt and their weights.

    `(a)` multiplies by 1.1; `(a:1.3)` sets 1.3, whatever stands around it; `\\(` and `\\)` are themselves.
    Parentheses that do not close are text.
    """
    for written, stand_in, _ in _ESCAPES:
        text = text.replace(written, stand_in)
    pending, pieces = [(text, 1.0, False)], list[tuple[str, float]]()
    while pending:  # a stack: prompts may nest deeper than Python calls may
        part, weight, plain = pending.pop()
        if plain:
            pieces.append((_unescaped(part), weight))
        else:
            pending += reversed([_entry(group, weight) for group in _groups(part)])
    return pieces


def tokenize(
    text: str, ids: Callable[[str], list[int]], marks: Marks, find: FindVectors
) -> tuple[Chunk, ...]:
    """A prompt -> its chunks, at least one, each as long as `marks` say.

    Args: ids: a text's token ids, without marks; find: the vectors of `embedding:name`, or None where
        there is no such embedding (it is logged, and left out).
    """
    groups = list[list[Token]]()
    for piece, weight in weigh(text):
        for part in _parts(piece):
            if part.startswith(_EMBEDDING):
                vectors, part = _embedding(part.removeprefix(_EMBEDDING).strip("\n"), find)
                if vectors is not None:
                    groups.append([Token(vector, weight, len(groups) + 1) for vector in vectors])
                if not part:
                    continue
            groups.append([Token(number, weight, len(groups) + 1) for number in ids(part)])
    return _chunks(groups, marks)


def chunks_of_tokens(tokens: Sequence[Sequence[tuple[object, float]]]) -> tuple[Chunk, ...]:
    """Chunks that somebody else made: an id or a vector [C], and a weight, for each place."""
    made = list[Chunk]()
    for chunk in tokens:
        made.append(tuple(Token(value, weight) for value, weight in chunk if isinstance(value, int | Tensor)))
    return tuple(made)


def empty_chunk(marks: Marks) -> Chunk:
    """The empty prompt: what weights are measured from."""
    return _chunks([], marks)[0]


def _groups(text: str) -> list[str]:
    """Split at the outermost parentheses, which stay on: "a (b) c" -> "a ", "(b)", " c"."""
    groups, start, depth = list[str](), 0, 0
    for at, char in enumerate(text):
        if char == "(":
            if depth == 0 and start < at:
                groups.append(text[start:at])
                start = at
            depth += 1
        elif char == ")":
            depth -= 1
            if depth == 0:
                groups.append(text[start : at + 1])
                start = at + 1
    return [*groups, text[start:]] if start < len(text) else groups


def _entry(group: str, weight: float) -> tuple[str, float, bool]:
    """(text, weight, whether it is a plain text) of one group."""
    if not (len(group) >= 2 and group[0] == "(" and group[-1] == ")"):
        return group, weight, True
    inner, colon, number = group[1:-1].rpartition(":")
    if colon and inner:
        try:
            return inner, float(number), False
        except ValueError:
            pass  # the colon belongs to the text
    return group[1:-1], weight * 1.1, False


def _unescaped(text: str) -> str:
    for _, stand_in, plain in _ESCAPES:
        text = text.replace(stand_in, plain)
    return text


def _parts(piece: str) -> list[str]:
    """Cut before every `embedding:` that begins a word."""
    return [part for part in re.split(rf"[ \n](?={_EMBEDDING})", piece) if part]


def _embedding(written: str, find: FindVectors) -> tuple[Tensor | None, str]:
    """An embedding's vectors, and the text behind its name. A comma at the name's end may be text."""
    name, rest = (written.split(maxsplit=1) or [""])[0], " ".join(written.split()[1:])
    vectors = find(name) if name else None
    bare = name.strip(",")
    if vectors is None and bare != name:
        vectors, rest = find(bare) if bare else None, f"{name[len(bare) :]} {rest}"
    if vectors is None:
        _log.warning("embedding:%s does not exist; it is left out of the prompt", written)
    return vectors, rest


def _chunks(groups: Sequence[Sequence[Token]], marks: Marks) -> tuple[Chunk, ...]:
    if marks.length is None:
        return (_closed([token for group in groups for token in group], marks),)
    chunks, current = list[Chunk](), list[Token]()
    room = marks.length - 2
    for group in groups:
        rest = list(group)
        while len(rest) > (free := room - len(current)):
            if len(group) >= _WHOLE:
                current, rest = current + rest[:free], rest[free:]
            chunks.append(_closed(current, marks))
            current = []
        current += rest
    return (*chunks, _closed(current, marks))


def _closed(tokens: Sequence[Token], marks: Marks) -> Chunk:
    first, last = ([] if mark is None else [Token(mark)] for mark in (marks.start, marks.end))
    whole = [*first, *tokens, *last, *[Token(marks.pad)] * (0 if marks.length else marks.padding)]
    return (*whole, *[Token(marks.pad)] * ((marks.length or marks.least) - len(whole)))
