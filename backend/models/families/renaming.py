"""Checkpoint names -> the network's: tables of layers, and tensors that are several layers in one."""

import re
from collections.abc import Iterator, Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from backend.models.layer_name import LayerName
from backend.values import frozen

_BLOCK = re.compile(r"(\w+)\.(\d+)\.(.+)")


@frozen
class Fused:
    """A layer of the file that is several of the network, one after the other along its outputs.

    shares: how many parts of its outputs each of them has; () for equal parts.
    """

    layers: tuple[str, ...]
    shares: tuple[int, ...] = ()

    def bounds(self, rows: int) -> list[tuple[int, int]]:
        """Where each layer's rows begin and end among all of them."""
        shares = self.shares or (1,) * len(self.layers)
        unit, start, found = rows // sum(shares), 0, []
        for share in shares:
            found.append((start, start + share * unit))
            start += share * unit
        return found


@frozen
class Swapped:
    """A layer whose two halves stand the other way round in the network: shift and scale, scale and shift."""

    layer: str


Target: TypeAlias = str | Fused | Swapped
Table: TypeAlias = Mapping[str, Target]


@frozen
class Origin:
    """Where a layer of the network stands in files: their layer, and which part of its outputs (None: all).

    part: which of how many shares, as (first, last + 1, of).
    """

    layer: str
    part: tuple[int, int, int] | None = None


@frozen
class Renaming:
    """blocks: a numbered list of the file -> that of the network, and a table of what is in its blocks.

    layers: what stands outside of them. Names are of layers, without `.weight`, or of lone tensors.
    """

    blocks: Mapping[str, tuple[str, Table]]
    layers: Table

    def convert(self, name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        """One tensor of the file -> those of the network; what no table has keeps its name."""
        stem, _, end = name.rpartition(".")
        target = self.target(name)
        if target is not None:
            yield from _converted(target, "", weight)
            return
        target = self.target(stem)
        if target is None:
            yield name, weight
            return
        yield from _converted(target, ".weight" if end == "scale" else f".{end}", weight)

    def target(self, layer: str) -> Target | None:
        """What becomes of a layer of the file, in the network's own full names."""
        if layer in self.layers:
            return self.layers[layer]
        match = _BLOCK.fullmatch(layer)
        if match is None or match[1] not in self.blocks:
            return None
        prefix, table = self.blocks[match[1]]
        return None if match[3] not in table else _under(f"{prefix}.{match[2]}.", table[match[3]])

    def origin(self, site: str) -> Origin | None:
        """Where a layer of the network comes from; None where no table has it."""
        for layer, target in self.layers.items():
            if (part := _part_of(target, site)) is not None:
                return Origin(layer, part or None)  # type: ignore[arg-type]  # () says: all of it
        match = _BLOCK.fullmatch(site)
        if match is None:
            return None
        for theirs, (ours, table) in self.blocks.items():
            if ours != match[1]:
                continue
            for layer, target in table.items():
                if (part := _part_of(target, match[3])) is not None:
                    return Origin(f"{theirs}.{match[2]}.{layer}", part or None)  # type: ignore[arg-type]
        return None


def _under(prefix: str, target: Target) -> Target:
    match target:
        case str():
            return prefix + target
        case Swapped(layer):
            return Swapped(prefix + layer)
        case Fused(layers, shares):
            return Fused(tuple(prefix + layer for layer in layers), shares)


def _converted(target: Target, end: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
    match target:
        case str():
            yield target + end, weight
        case Swapped(layer):
            first, second = weight.chunk(2)
            yield layer + end, torch.cat([second, first])
        case Fused(layers):
            for layer, (start, stop) in zip(layers, target.bounds(len(weight)), strict=True):
                yield layer + end, weight[start:stop]


def _part_of(target: Target, site: str) -> tuple[int, ...] | None:
    """Which part of a layer of the file `site` is: () for all of it, None for none."""
    match target:
        case str():
            return () if target == site else None
        case Swapped():
            return None  # its halves are turned: no change of the file's layer fits
        case Fused(layers, shares) if site in layers:
            at = layers.index(site)
            sizes = shares or (1,) * len(layers)
            return sum(sizes[:at]), sum(sizes[: at + 1]), sum(sizes)
        case Fused():
            return None


def lora_names(site: str, origin: Origin | None) -> tuple[LayerName, ...]:
    """What LoRA files call a layer of a transformer.

    The names of diffusers and PEFT, and those of the original layers: kohya's, LyCORIS' and ComfyUI's.
    """
    flat = site.replace(".", "_")
    own = (
        f"transformer.{site}",
        f"base_model.model.transformer.{site}",
        f"lora_transformer_{flat}",
        f"lycoris_{flat}",
        f"lora_unet_{flat}",
        f"diffusion_model.{site}",
        site,
    )
    names = [LayerName(name) for name in own]
    if origin is not None and origin.layer != site:
        flat = origin.layer.replace(".", "_")
        theirs = (f"lora_unet_{flat}", f"diffusion_model.{origin.layer}", f"lycoris_{flat}", origin.layer)
        names += [LayerName(name, origin.part) for name in theirs]
    return tuple(names)
