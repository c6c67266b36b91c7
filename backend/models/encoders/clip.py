"""CLIP's text encoders: OpenAI's L and OpenCLIP's bigG, in transformers' or OpenCLIP's names."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from backend.errors import BadFile
from backend.models.clip_network import ClipNetwork, ClipSizes
from backend.models.clip_tokenizer import END, START, shared_tokenizer
from backend.models.embeddings import load_embedding
from backend.models.header import Header
from backend.models.prompt import Chunk, Marks, empty_chunk, tokenize
from backend.models.text_encoder import EncoderKind, Request, Working
from backend.values import frozen

_log = logging.getLogger(__name__)
_OPEN_CLIP: Mapping[str, str] = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
_OPEN_CLIP_WHOLE: Mapping[str, str] = {
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
}
_FUSED = "attn.in_proj_"  # q, k and v of OpenCLIP, one above the other


@frozen
class ClipLayout:
    """part: clip_l or clip_g."""

    part: str
    sizes: ClipSizes
    _PAD: ClassVar[Mapping[str, int]] = {"clip_l": END, "clip_g": 0}
    _LORA: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "clip_l": ("lora_te_{flat}", "lora_te1_{flat}", "text_encoder.{site}"),
        "clip_g": ("lora_te2_{flat}", "text_encoder_2.{site}"),
    }

    @property
    def marks(self) -> Marks:
        return Marks(START, END, pad=self._PAD[self.part])

    def build(self) -> ClipNetwork:
        with torch.device("meta"):
            return ClipNetwork(self.sizes)

    def convert(self, name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        if name == "text_projection":  # OpenCLIP multiplies from the other side
            yield "text_projection.weight", weight.t()
        elif not name.startswith("transformer.resblocks."):
            yield _OPEN_CLIP_WHOLE.get(name, name), weight
        else:
            _, _, number, rest = name.split(".", 3)
            yield from open_clip_block(f"text_model.encoder.layers.{number}", rest, weight)

    def lora_names(self, site: str) -> tuple[str, ...]:
        flat = site.replace(".", "_")
        generic = f"text_encoders.{self.part}.transformer.{site}"
        return (*(name.format(flat=flat, site=site) for name in self._LORA[self.part]), generic)


def detect(part: str, header: Header) -> ClipLayout | None:
    """The layout of a CLIP text model; None where the names are of anything else."""
    if "transformer.resblocks.0.ln_1.weight" in header:
        tokens, positions = "token_embedding.weight", "positional_embedding"
        first, layers = "transformer.resblocks.0.mlp.c_fc.weight", "transformer.resblocks.{}."
        projection = header.shape("text_projection")[1] if "text_projection" in header else None
    else:
        tokens, positions = (
            f"text_model.embeddings.{kind}_embedding.weight" for kind in ("token", "position")
        )
        first, layers = "text_model.encoder.layers.0.mlp.fc1.weight", "text_model.encoder.layers.{}."
        names = [name for name in ("text_projection.weight", "text_projection") if name in header]
        projection = header.shape(names[0])[0] if names else None
    if not header.has(tokens, positions, first):
        return None
    (vocabulary, width), hidden = header.shape(tokens), header.shape(first)[0]
    projected = projection if part == "clip_g" else None  # nothing uses that of CLIP-L
    count = header.count(layers)
    sizes = ClipSizes(
        width, hidden, count, vocabulary, header.shape(positions)[0], projected, quick=part == "clip_l"
    )
    return ClipLayout(part, sizes)


def kind(part: str) -> EncoderKind:
    """clip_l or clip_g."""
    return EncoderKind(partial(detect, part), lambda file: shared_tokenizer())


@frozen(eq=False)
class ClipText:
    """tokens [1, 77 * chunks, C]; pooled [1, C]: the last layer at the first chunk's end; projected [1, P]:
    that through the projection, itself where there is none. float32, on the CPU.
    """

    tokens: Tensor
    pooled: Tensor
    projected: Tensor


@frozen
class Reading:
    """Which hidden states are taken: `layer`, counted from the end (None: the last, layer-normed); normed:
    whether those of an inner layer are layer-normed too.
    """

    layer: int | None = None
    normed: bool = True


def chunks_of(clip: Working, request: Request) -> tuple[Chunk, ...]:
    """The encoder's text in chunks of 77 tokens; embeddings that can't be read are logged and left out."""
    layout = _layout(clip)
    if (given := request.chunks.get(layout.part)) is not None:
        return given

    def vectors(name: str) -> Tensor | None:
        path = request.find_embedding(name)
        try:
            return None if path is None else load_embedding(path, layout.sizes.width, layout.part)
        except BadFile as error:
            _log.warning("%s", error)
            return None

    return tokenize(request.for_part(layout.part), clip.encoder.tokenizer.ids, layout.marks, vectors)


def padded(chunks: Sequence[Chunk], clip: Working, count: int) -> tuple[Chunk, ...]:
    """With empty chunks behind them, so that they are `count` or more."""
    return (*chunks, *[empty_chunk(_layout(clip).marks)] * (count - len(chunks)))


def encode(clip: Working, chunks: Sequence[Chunk], reading: Reading) -> ClipText:
    """Chunks of one text -> its encoding, each token moved away from the empty text's by its weight."""
    weighted = any(token.weight != 1.0 for chunk in chunks for token in chunk)
    rows = (*chunks, empty_chunk(_layout(clip).marks)) if weighted else tuple(chunks)
    with clip.rows(len(rows), len(rows[0])):
        hidden, pooled, projected = _run(clip, rows, reading)
    tokens = _steered(hidden[:-1], hidden[-1], chunks) if weighted else hidden
    return ClipText(tokens.reshape(1, -1, tokens.shape[-1]).cpu(), pooled[:1].cpu(), projected[:1].cpu())


def _run(clip: Working, chunks: Sequence[Chunk], reading: Reading) -> tuple[Tensor, Tensor, Tensor]:
    """The chosen hidden states [N, T, C]; at each chunk's end mark the last layer's [N, C], and projected."""
    layers, network = _layout(clip).sizes.layers, _network(clip)
    inner = reading.layer is not None and -layers <= reading.layer < 0
    layer = layers + reading.layer if reading.layer is not None and inner else None
    vectors = torch.stack([_embedded(clip, chunk) for chunk in chunks])
    hidden, last = network(vectors, layer, reading.normed)
    pooled = last[range(len(chunks)), [_end(chunk) for chunk in chunks]]
    return hidden.float(), pooled.float(), network.projected(pooled).float()


def _embedded(clip: Working, chunk: Chunk) -> Tensor:
    """[T, C]: the vocabulary's vectors, and those of embeddings in their places."""
    ids = [token.value if isinstance(token.value, int) else 0 for token in chunk]
    vectors = _network(clip).embed(torch.tensor(ids, device=clip.encoder.device)).clone()
    for place, token in enumerate(chunk):
        if isinstance(token.value, Tensor):
            vectors[place] = token.value.to(vectors)
    return vectors


def _end(chunk: Chunk) -> int:
    """Where the pooled output is read: at the first end mark."""
    return next(
        place for place, token in enumerate(chunk) if isinstance(token.value, int) and token.value == END
    )


def _steered(hidden: Tensor, empty: Tensor, chunks: Sequence[Chunk]) -> Tensor:
    """Move each token away from the empty prompt's by its weight; neutral ones stay bit for bit."""
    weights = torch.tensor([[t.weight for t in chunk] for chunk in chunks], device=hidden.device)[..., None]
    return torch.where(weights == 1.0, hidden, (hidden - empty) * weights + empty)


def open_clip_block(layer: str, rest: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
    """A tensor of an OpenCLIP block -> its tensors in a layer by transformers' names."""
    if rest.startswith(_FUSED):
        end = rest.removeprefix(_FUSED)
        for letter, part in zip("qkv", weight.chunk(3), strict=True):
            yield f"{layer}.self_attn.{letter}_proj.{end}", part
        return
    place, _, end = rest.rpartition(".")
    yield f"{layer}.{_OPEN_CLIP.get(place, place)}.{end}", weight


def _layout(clip: Working) -> ClipLayout:
    assert isinstance(clip.encoder.layout, ClipLayout)
    return clip.encoder.layout


def _network(clip: Working) -> ClipNetwork:
    assert isinstance(clip.encoder.module, ClipNetwork)
    return clip.encoder.module
