"""Text encoders: prompts -> conditioning, equal to ComfyUI's."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from backend.errors import BadFile, UnknownFamily, UnsupportedOption
from backend.models.adapters import adapt, applied
from backend.models.clip_network import ClipLayout, ClipNetwork, detect
from backend.models.clip_tokenizer import END, START, ClipTokenizer
from backend.models.embeddings import load_embedding
from backend.models.header import Header
from backend.models.hostcopy import Form, HostCopies
from backend.models.lora import Patch, own_weight, sites_of
from backend.models.merged import Copies
from backend.models.parts import TEXT_PREFIXES, TEXT_UNUSED
from backend.models.prompt import Chunk, Marks, empty_chunk, tokenize
from backend.models.weights import ModelFile, fill, open_file
from backend.references import Clip, File, Weights
from backend.types import Cond

_log = logging.getLogger(__name__)
_MARKS = Marks(START, END, pad=END)
_OTHER_FAMILIES = (
    "sd3",
    "hidream",
)  # what CLIPLoader makes of a lone CLIP-L for them is not SD 1.x's encoding


@dataclass(frozen=True, slots=True, eq=False)
class TextEncoder:
    """A CLIP text model with its tokenizer. base_bytes: of its weights; sites: layers that LoRAs may change;
    copies: of weights with LoRAs in them.
    """

    layout: ClipLayout
    module: ClipNetwork
    tokenizer: ClipTokenizer
    sites: tuple[str, ...]
    base_bytes: int
    copies: Copies
    device: torch.device
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Of its weights, and of the copies there are now."""
        return self.base_bytes + self.copies.nbytes

    @property
    def is_text(self) -> bool:
        return True

    def weight_shape(self, site: str) -> tuple[int, ...]:
        return tuple(self.module.get_parameter(f"{site}.weight").shape)

    def lora_names(self, site: str) -> tuple[str, ...]:
        flat = site.replace(".", "_")
        generic = f"text_encoders.clip_l.transformer.{site}"
        return (f"lora_te_{flat}", f"lora_te1_{flat}", f"text_encoder.{site}", generic)


def load_text_encoder(
    weights: Weights, device: torch.device, dtype: torch.dtype, copies: HostCopies | None = None
) -> TextEncoder:
    """The CLIP-L of a checkpoint, or of a file of its own.

    Raises: UnknownFamily where the file has no text model of a known kind; BadFile.
    """
    if len(weights.files) != 1:
        paths = ", ".join(f.path for f in weights.files)
        raise BadFile(paths, "SD 1.x has one text encoder", "Load it with CLIPLoader or from a checkpoint.")
    file, added, layout = _opened(weights.files[0])

    def convert(name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        if not name.endswith(TEXT_UNUSED):
            yield added + name, weight

    with torch.device("meta"):
        module = ClipNetwork(layout)
    sites = adapt(module)
    nbytes = fill(module, file, convert, device, Form(dtype), copies.of(weights) if copies else None)
    merged = Copies(partial(own_weight, module), budget=nbytes)
    return TextEncoder(layout, module, ClipTokenizer(), sites, nbytes, merged, device, dtype)


def encode_text(
    encoder: TextEncoder,
    clip: Clip,
    text: str,
    find_embedding: Callable[[str], str | None],
    patches: Sequence[Patch] = (),
) -> tuple[Cond, ...]:
    """A prompt's conditioning: ComfyUI's CLIPTextEncode.

    Args: clip.stop_at: which layer's output is used, counted from the end (-1, or beyond the first layer: the
        last); find_embedding: an embedding's name -> its file; patches: the LoRAs of clip, loaded.
    Returns: one Cond, float32 on the CPU: tokens [1, 77 * chunks, C], pooled [1, C].
    Raises: UnsupportedOption where clip.family wants another encoding.
    """

    if clip.family in _OTHER_FAMILIES:
        remedy = (
            "Choose type stable_diffusion: this text encoder alone gives no conditioning for other models."
        )
        raise UnsupportedOption("type", clip.family, remedy)

    def vectors(name: str) -> Tensor | None:
        path = find_embedding(name)
        try:
            return None if path is None else load_embedding(path, encoder.layout.width)
        except BadFile as error:
            _log.warning("%s", error)
            return None

    chunks = tokenize(text, encoder.tokenizer.ids, _MARKS, vectors)
    weighted = any(token.weight != 1.0 for chunk in chunks for token in chunk)
    stacks = [tuple(patches)] * (len(chunks) + weighted)
    places = len(stacks) * len(chunks[0])
    with torch.no_grad(), applied(sites_of(stacks, places, encoder.device, encoder.copies)):
        hidden, pooled = _run(encoder, (*chunks, empty_chunk(_MARKS)) if weighted else chunks, clip.stop_at)
    tokens = _steered(hidden[:-1], hidden[-1], chunks) if weighted else hidden
    return (Cond(tokens.reshape(1, -1, tokens.shape[-1]).cpu(), pooled[:1].cpu()),)


def _opened(source: File) -> tuple[ModelFile, str, ClipLayout]:
    file = open_file(source)
    for prefix, added in TEXT_PREFIXES:
        part = file.header.under(prefix)
        named = Header(source.path, {added + name: info for name, info in part.tensors.items()})
        if (layout := detect(named)) is not None:
            return file.under(prefix), added, layout
    remedy = "Use a checkpoint with a text encoder, or a CLIP-L file with CLIPLoader."
    raise UnknownFamily(source.path, "no CLIP-L text encoder in it", remedy)


def _run(encoder: TextEncoder, chunks: Sequence[Chunk], stop_at: int | None) -> tuple[Tensor, Tensor]:
    """The chosen hidden states [N, T, C] and, at each chunk's end mark, the last layer's [N, C]; float32."""
    layers = encoder.layout.layers
    layer = layers + stop_at if stop_at is not None and -layers <= stop_at < 0 else layers - 1
    vectors = torch.stack([_embedded(encoder, chunk) for chunk in chunks])
    hidden, last = encoder.module(vectors, layer)
    ends = [_end(chunk) for chunk in chunks]
    return hidden.float(), last[range(len(chunks)), ends].float()


def _embedded(encoder: TextEncoder, chunk: Chunk) -> Tensor:
    """[T, C]: the vocabulary's vectors, and those of embeddings in their places."""
    ids = [token.value if isinstance(token.value, int) else 0 for token in chunk]
    vectors = encoder.module.embed(torch.tensor(ids, device=encoder.device)).clone()
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
