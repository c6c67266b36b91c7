"""T5's encoder as a text encoder: T5-XXL of SD3 and Flux, in transformers' names."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from backend.errors import BadFile
from backend.models.embeddings import load_embedding
from backend.models.header import Header
from backend.models.prompt import Chunk, Marks, Token, empty_chunk, tokenize
from backend.models.t5_network import T5Network, T5Sizes
from backend.models.t5_tokenizer import END, PAD, T5Tokenizer
from backend.models.text_encoder import EncoderKind, Request, Working

_log = logging.getLogger(__name__)
_FIRST = "encoder.block.0.layer.0.SelfAttention."
_UNUSED = ("encoder.embed_tokens.weight", "spiece_model", "logit_scale")  # the first is `shared` once more


@dataclass(frozen=True, slots=True)
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
    if any(name not in header for name in needed):
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
            "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight" in header,
        )
    )


KIND = EncoderKind(detect, lambda file: T5Tokenizer(), exact=True)


def encode(t5: Working, request: Request, least: int) -> Tensor:
    """A text -> its tokens float32 [1, T, C] on the CPU, each moved away from the empty text's by its weight.

    least: of tokens, where nothing else is asked for; a shorter text is filled up.
    """
    part = t5.encoder.part
    marks = Marks(
        None,
        END,
        PAD,
        length=None,
        least=request.number(f"{part}_min_length", least),
        padding=request.number(f"{part}_min_padding", 0),
    )
    if part in request.left_out:
        return _run(t5, (Token(END),), request.stop_at)
    chunk = _chunk(t5, request, marks)
    hidden = _run(t5, chunk, request.stop_at)
    if all(token.weight == 1.0 for token in chunk):
        return hidden
    filled = Marks(None, END, PAD, length=None, least=len(chunk))
    empty = _run(t5, empty_chunk(filled), request.stop_at)
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


def _run(t5: Working, chunk: Chunk, stop_at: int | None) -> Tensor:
    """[1, T, C], on the CPU."""
    network = _network(t5)
    ids = [token.value if isinstance(token.value, int) else 0 for token in chunk]
    with t5.rows(1, len(chunk)):
        vectors = network.embed(torch.tensor([ids], device=t5.encoder.device))
        for place, token in enumerate(chunk):
            if isinstance(token.value, Tensor):
                vectors[0, place] = token.value.to(vectors)
        return network(vectors, _layer(stop_at, network.sizes.layers)).cpu()  # type: ignore[no-any-return]


def _layer(stop_at: int | None, layers: int) -> int | None:
    """How many layers run, where CLIPSetLastLayer asks for an inner one."""
    return None if stop_at is None or not -layers <= stop_at < 0 else layers + stop_at + 1


def _network(t5: Working) -> T5Network:
    assert isinstance(t5.encoder.module, T5Network)
    return t5.encoder.module
