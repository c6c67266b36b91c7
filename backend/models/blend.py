"""Weights that no file holds: merges, and LoRAs baked in. Each tensor is made when it is asked for, as the
file of the base names it, so that merged weights are read like those of any file.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TypeAlias

import torch
from torch import Tensor, nn

from backend.components import Adjustment, Share, Source, Weights
from backend.errors import BadFile
from backend.models.adapters import Weight
from backend.models.layer_name import LayerName
from backend.models.lora import Target, lora_of
from backend.models.merged import Patch, Stack, biased, merged
from backend.models.parts import place_of
from backend.models.weights import Convert, ModelFile, open_file
from backend.values import frozen

_log = logging.getLogger(__name__)
_CPU = torch.device("cpu")


@frozen(eq=False)
class Blank:
    """A network without weights, for LoRAs to be bound to: on the meta device."""

    module: nn.Module
    sites: tuple[str, ...]
    names: Callable[[str], tuple[str | LayerName, ...]]
    is_text: bool
    device: torch.device = _CPU
    dtype: torch.dtype = torch.float32

    def weight_shape(self, site: str) -> tuple[int, ...]:
        return tuple(self.module.get_parameter(f"{site}.weight").shape)

    def lora_names(self, site: str) -> tuple[str | LayerName, ...]:
        return self.names(site)


@frozen(eq=False)
class Outline:
    """How a component's network takes its file.

    convert: one tensor, by its canonical name, -> the network's; target: what LoRAs are bound to.
    """

    convert: Convert
    target: Target


Outlined: TypeAlias = Callable[[Weights, ModelFile], Outline]


def open_weights(weights: Weights, outlined: Outlined) -> ModelFile:
    """The file that a component is read from; of merged weights one that makes its tensors as they are read.

    outlined: how a network of the component's kind takes a file. Raises: BadFile.
    """
    if weights.blend is None:
        return open_file(weights.files[0])
    blend = weights.blend
    base = _part(blend.base, outlined)
    other = None if blend.other is None else _part(blend.other, outlined)
    return ModelFile(base.file.header, _Made(base, other, blend.shares), base.file.file)


@frozen(eq=False)
class _Part:
    """A source, opened. names: canonical name -> name in the file; tensors: by the names in the file."""

    file: ModelFile
    names: Mapping[str, str]
    tensors: Mapping[str, Tensor]
    outline: Outline | None  # None: no LoRA changes it
    stack: Stack

    def tensor(self, canonical: str) -> Tensor:
        value = self.tensors[self.names[canonical]]
        return value if self.outline is None else baked(canonical, value, self.outline, self.stack)


def _part(source: Source, outlined: Outlined) -> _Part:
    file = open_weights(source.weights, outlined)
    if file.packings:
        remedy = "Merge the model it was made of, as safetensors."
        raise BadFile(file.header.path, "its weights are in blocks (GGUF), which can't be merged", remedy)
    place = place_of(file.header, source.weights.kind, source.weights.part)
    names = {name: name for name in file.header} if place is None else place.names
    tensors = dict(file.tensors()) if file.pickled is None else file.pickled
    uses = [use for use in source.loras if use.strength != 0.0]
    outline = outlined(source.weights, file) if uses else None
    return _Part(file, names, tensors, outline, _stack(uses, outline))


def _stack(uses: Sequence[Adjustment], outline: Outline | None) -> Stack:
    if outline is None:
        return ()
    return tuple(Patch(lora_of(use, outline.target), use.strength) for use in uses)


# ComfyUI's merges and LoRAs reach layers, neither buffers nor parameters of modules that have layers in them:
# SD3's positions, Wan's modulation and its pictures' positions, Z-Image's fillings.
KEPT = ("pos_embed", "modulation", "emb_pos", "x_pad_token", "cap_pad_token")


class _Made(Mapping[str, Tensor]):
    """The base's tensors by the names in its file, with the other's mixed in."""

    def __init__(self, base: _Part, other: _Part | None, shares: Sequence[Share]) -> None:
        self._base, self._other = base, other
        self._canonical = {name: canonical for canonical, name in base.names.items()}
        self._shares = sorted(shares, key=lambda share: len(share.start), reverse=True)

    def __getitem__(self, name: str) -> Tensor:
        if (canonical := self._canonical.get(name)) is None:
            return self._base.tensors[name]
        if canonical.rpartition(".")[2] in KEPT:
            return self._base.tensors[name]
        own = self._base.tensor(canonical)
        share = next((s for s in self._shares if canonical.startswith(s.start)), None)
        if self._other is None or share is None or canonical not in self._other.names:
            return own
        return mixed(own, self._other.tensor(canonical), share, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._base.tensors)

    def __len__(self) -> int:
        return len(self._base.tensors)


def mixed(own: Tensor, other: Tensor, share: Share, name: str) -> Tensor:
    """`own` times its share plus `other` times its, in float32; whole numbers stay as they are."""
    if not own.is_floating_point() or (share.base, share.other) == (1.0, 0.0):
        return own
    scaled = own.float() * share.base
    if other.shape == own.shape:
        return scaled.add_(other.float(), alpha=share.other)
    if share.other != 0.0:
        shapes = f"{list(other.shape)} and {list(own.shape)}"
        _log.warning("merging: %s has the shapes %s; the second model's is left out", name, shapes)
    return scaled


def baked(canonical: str, value: Tensor, outline: Outline, stack: Stack) -> Tensor:
    """A tensor of the file with LoRAs in it, float32 where any changes it; in its own form.

    Raises: BadFile where the network takes the tensor in a form that can't be undone.
    """
    if not value.is_floating_point():
        return value
    parts = [(name, part.float()) for name, part in outline.convert(canonical, value)]
    changed = [_changed(name, part, outline.target, stack) for name, part in parts]
    if all(new is part for new, (_, part) in zip(changed, parts, strict=True)):
        return value
    return _undone(canonical, value.float(), [part for _, part in parts], changed)


def _changed(name: str, part: Tensor, target: Target, stack: Stack) -> Tensor:
    """One tensor of the network after the LoRAs."""
    site, _, end = name.rpartition(".")
    if not any(site in patch.lora.changes for patch in stack):
        return part
    if end == "bias":
        bias = biased(part, stack, site)
        assert bias is not None
        return bias
    if end != "weight":
        return part
    weight = merged(Weight(part.reshape(target.weight_shape(site)), None), stack, site).weight
    return weight.reshape(part.shape)


def _undone(canonical: str, value: Tensor, parts: Sequence[Tensor], changed: Sequence[Tensor]) -> Tensor:
    """The network's tensors as the file has them: put together as those that came from it give it back."""
    for together in (_stacked, _exchanged, _turned):
        whole, again = together(parts), together(changed)
        if whole is None or again is None or whole.numel() != value.numel():
            continue
        if torch.equal(whole.reshape(value.shape), value):
            return again.reshape(value.shape)
    raise BadFile(canonical, "a LoRA can't be put into this tensor", "Apply the LoRA without merging it.")


def _stacked(parts: Sequence[Tensor]) -> Tensor | None:
    alike = all(a.shape[1:] == b.shape[1:] for a, b in pairwise(parts))
    return torch.cat(list(parts)) if alike else None


def _exchanged(parts: Sequence[Tensor]) -> Tensor | None:
    """The halves of one tensor the other way round: scale and shift."""
    return torch.cat(parts[0].chunk(2)[::-1]) if len(parts) == 1 else None


def _turned(parts: Sequence[Tensor]) -> Tensor | None:
    return parts[0].t().contiguous() if len(parts) == 1 and parts[0].ndim == 2 else None
