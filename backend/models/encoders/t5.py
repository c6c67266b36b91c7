"""T5's encoder as a text encoder: T5-XXL of SD3 and Flux, UMT5-XXL of Wan, in transformers' names."""

import logging
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from backend.errors import BadFile
from backend.models.embeddings import load_embedding
from backend.models.header import Header
from backend.models.pieces_tokenizer import PIECES, PiecesTokenizer
from backend.models.prompt import Chunk, Marks, Token, empty_chunk, tokenize
from backend.models.t5_network import T5Network, T5Sizes
from backend.models.t5_tokenizer import END, PAD, T5Tokenizer
from backend.models.text_encoder import EncoderKind, Request, Tokenizer, Working
from backend.models.weights import ModelFile
from backend.values import frozen

_log = logging.getLogger(__name__)
_FIRST = "encoder.block.0.layer.0.SelfAttention."
_SECOND = "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight"
_UNUSED = ("encoder.embed_tokens.weight", PIECES, "logit_scale")  # the first is `shared` once more


@frozen
class T5Layout:
    sizes: T5Sizes

    def build(self) -> T5Network:
        with torch.device("meta"):
            return T5Network(self.sizes)

    def convert(self, name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        if name not in _UNUSED:
            yield name, weight

    def lora_names(self, site: str) -> tuple[str, ...]:
        flat = site.replace(".", "_")
        return f"lora_te3_{flat}", f"lora_te2_{flat}", f"text_encoders.t5xxl.transformer.{site}"


def detect(header: Header) -> T5Layout | None:
    """The layout of a gated T5 encoder; None where the names are of anything else."""
    needed = (
        "shared.weight",
        f"{_FIRST}q.weight",
        f"{_FIRST}relative_attention_bias.weight",
        "encoder.block.0.layer.1.DenseReluDense.wi_0.weight",
    )
    if not header.has(*needed):
        return None
    vocabulary, width = header.shape("shared.weight")
    return T5Layout(
        T5Sizes(
            width,
            header.shape(f"{_FIRST}q.weight")[0],
            header.shape(f"{_FIRST}relative_attention_bias.weight")[1],
            header.shape("encoder.block.0.layer.1.DenseReluDense.wi_0.weight")[0],
            header.count("encoder.block.{}."),
            vocabulary,
            _SECOND in header,
        )
    )


def _tokenizer(file: ModelFile) -> Tokenizer:
    """UMT5, of many languages, has pieces of its own. Raises: BadFile where they are not in its file."""
    return PiecesTokenizer(file) if _SECOND in file.header or PIECES in file.header else T5Tokenizer()


KIND = EncoderKind(detect, _tokenizer, exact=True)


def encode(t5: Working, request: Request, least: int, masked: bool = False) -> Tensor:
    """A text -> its tokens float32 [1, T, C] on the CPU, each moved away from the empty text's by its weight.

    least: of tokens, where nothing else is asked for; a shorter text is filled up. masked: nothing looks at
    what fills it up, and zeros stand in its place.
    """
    part, layer = t5.encoder.part, request.stop_at
    marks = Marks(
        None,
        END,
        PAD,
        length=None,
        least=request.number(f"{part}_min_length", least),
        padding=request.number(f"{part}_min_padding", 0),
    )
    if part in request.left_out:
        return _run(t5, (Token(END),), layer)
    chunk = _chunk(t5, request, marks)
    hidden = _run(t5, chunk, layer, masked)
    if all(token.weight == 1.0 for token in chunk):
        return hidden
    filled = Marks(None, END, PAD, length=None, least=len(chunk))
    empty = _run(t5, empty_chunk(filled), layer, masked)
    weights = torch.tensor([token.weight for token in chunk])[:, None]
    return torch.where(weights == 1.0, hidden, (hidden - empty) * weights + empty)


def _chunk(t5: Working, request: Request, marks: Marks) -> Chunk:
    part, sizes = t5.encoder.part, _network(t5).sizes

    def vectors(name: str) -> Tensor | None:
        path = request.find_embedding(name)
        try:
            return None if path is None else load_embedding(path, sizes.width, part)
        except BadFile as error:
            _log.warning("%s", error)
            return None

    (chunk,) = tokenize(request.for_part(part), t5.encoder.tokenizer.ids, marks, vectors)
    return chunk


def _run(t5: Working, chunk: Chunk, stop_at: int | None, masked: bool = False) -> Tensor:
    """[1, T, C], on the CPU. masked: of the tokens up to the mark at the text's end, and zeros behind it."""
    network = _network(t5)
    ids = [token.value if isinstance(token.value, int) else 0 for token in chunk]
    count = ids.index(END) + 1 if masked else len(ids)
    with t5.rows(1, count):
        vectors = network.embed(torch.tensor([ids[:count]], device=t5.encoder.device))
        for place, token in enumerate(chunk[:count]):
            if isinstance(token.value, Tensor):
                vectors[0, place] = token.value.to(vectors)
        made: Tensor = network(vectors, _layer(stop_at, network.sizes.layers)).cpu()
    return F.pad(made, (0, 0, 0, len(ids) - count))


def _layer(stop_at: int | None, layers: int) -> int | None:
    """How many layers run, where CLIPSetLastLayer asks for an inner one."""
    return None if stop_at is None or not -layers <= stop_at < 0 else layers + stop_at + 1


def _network(t5: Working) -> T5Network:
    assert isinstance(t5.encoder.module, T5Network)
    return t5.encoder.module
