"""A text encoder, loaded: what every kind of them has in common, and how one is put to work for a prompt."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import field
from typing import Protocol, TypeAlias

import torch
from torch import Tensor, nn

from backend.models.adapters import Conv2d, Linear, applied
from backend.models.header import Header
from backend.models.lora import Patch, sites_of
from backend.models.merged import Copies
from backend.models.prompt import Chunk
from backend.models.stored import shape_of
from backend.models.weights import ModelFile
from backend.types import Cond
from backend.values import frozen

FindEmbedding: TypeAlias = Callable[[str], str | None]  # an embedding's name -> its file


class EncoderLayout(Protocol):
    """One text encoder as its header describes it."""

    def build(self) -> nn.Module:
        """The network on the meta device, without weights."""

    def convert(self, name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        """One tensor of the file (by the encoder's own names) -> the network's tensors it becomes."""

    def lora_names(self, site: str) -> tuple[str, ...]:
        """What LoRA files may call a layer of the network, without the endings."""


class Tokenizer(Protocol):
    """A text -> token ids, without marks at its ends."""

    def ids(self, text: str) -> list[int]: ...


@frozen
class EncoderKind:
    """How encoders of a name are read.

    detect: the layout of a header (the encoder's own names), None if it is none of this kind; tokenizer: made
    once for each encoder, from its file where that brings its own; exact: it computes in float32, whatever
    the device is best at: half formats overflow in it.
    """

    detect: Callable[[Header], EncoderLayout | None]
    tokenizer: Callable[[ModelFile], Tokenizer]
    exact: bool = False


@frozen(eq=False)
class TextEncoder:
    """part: its name (clip_l ...); base_bytes: of its weights; sites: layers that LoRAs may change; copies:
    of weights with LoRAs in them.
    """

    part: str
    layout: EncoderLayout
    module: nn.Module
    tokenizer: Tokenizer
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
        layer = self.module.get_submodule(site)
        assert isinstance(layer, Linear | Conv2d)
        return shape_of(layer)

    def lora_names(self, site: str) -> tuple[str, ...]:
        return self.layout.lora_names(site)


@frozen(eq=False)
class Working:
    """An encoder with the LoRAs of one request, loaded for it."""

    encoder: TextEncoder
    patches: tuple[Patch, ...] = ()

    @contextmanager
    def rows(self, count: int, length: int) -> Iterator[None]:
        """Within it, a pass of `count` rows of `length` tokens has the LoRAs; no gradients."""
        stacks: Sequence[tuple[Patch, ...]] = [self.patches] * count
        sites = sites_of(stacks, count * length, self.encoder.device, self.encoder.copies)
        with torch.no_grad(), applied(sites):
            yield


@frozen(eq=False)
class Request:
    """What is to be encoded.

    text: for every encoder that `texts` (by the encoder's name) gives none of its own; stop_at:
    CLIPSetLastLayer's layer, counted from the end; images: [B, H, W, 3] in 0..1, for encoders that see;
    left_out: encoders that are given nothing at all; options: of tokenizers, by ComfyUI's names; chunks:
    tokens in place of a text, by the encoder's name.
    """

    text: str
    find_embedding: FindEmbedding
    texts: Mapping[str, str] = field(default_factory=dict)
    stop_at: int | None = None
    images: tuple[Tensor, ...] = ()
    left_out: frozenset[str] = frozenset()
    options: Mapping[str, int] = field(default_factory=dict)
    chunks: Mapping[str, tuple[Chunk, ...]] = field(default_factory=dict)

    def for_part(self, part: str) -> str:
        return self.texts.get(part, self.text)

    def number(self, option: str, default: int) -> int:
        """A tokenizer's option."""
        return self.options.get(option, default)


# Encoders by their names, and what they are to encode -> conditions, float32 on the CPU.
Encode: TypeAlias = Callable[[Mapping[str, Working], Request], tuple[Cond, ...]]


@frozen
class Encoding:
    """What encoders make together. parts: the names of encoders that it can't do without."""

    encode: Encode
    parts: tuple[str, ...]
