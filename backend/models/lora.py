"""LoRA files: any naming dialect -> changes of layers; many users' changes -> what one batch's layers do."""

import logging
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol

import torch

from backend.components import Adjustment, File, WeightScale
from backend.errors import BadFile
from backend.models.adapters import Conv2d, Linear, SidePath, Site, Weight, runs
from backend.models.changes import Change, Delta, Kron, Scaled, part_of
from backend.models.dialects import Part, foreign, read_change
from backend.models.layer_name import LayerName
from backend.models.merged import Copies, Lora, Patch, Stack, sites_changed
from backend.models.stored import whole
from backend.models.weights import open_model

__all__ = ["Lora", "Patch", "Stack", "Target", "load_lora", "lora_of", "own_weight", "sites_of"]

_log = logging.getLogger(__name__)
_TEXT = ("lora_te", "text_encoder")  # beginnings of the names of text encoders' layers


class Target(Protocol):
    """What a LoRA changes: a denoiser, or a text encoder."""

    @property
    def sites(self) -> tuple[str, ...]: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def is_text(self) -> bool:
        """A text encoder?"""

    def weight_shape(self, site: str) -> tuple[int, ...]: ...

    def lora_names(self, site: str) -> tuple[str | LayerName, ...]:
        """What a file may call the layer, without endings."""


def load_lora(file: File, target: Target) -> Lora:
    """The part of a LoRA file that changes `target`, on its device and in its dtype.

    A file that has nothing for the target gives a Lora without changes: many have the denoiser alone.
    What the file has for this kind of target and this one lacks is logged. Raises: BadFile where the file is
    damaged, or of a kind of adapter that `changes.py` does not know.
    """
    tensors = dict(open_model(file.path).tensors())
    if (strange := foreign(tensors)) is not None:
        remedy = "Use a LoRA, LoCon, LoHa, LoKr, DoRA or OFT, or merge this one into a checkpoint."
        raise BadFile(file.path, f"tensor {strange!r} is of an adapter that this server can't apply", remedy)
    used: set[str] = set()
    changes: dict[str, Change] = {}
    for site in target.sites:
        shape = target.weight_shape(site)
        for name in target.lora_names(site):
            named = name if isinstance(name, LayerName) else LayerName(name)
            whole_shape = named.fused(shape)
            change = read_change(Part(file.path, named.name, tensors, used), whole_shape)
            if change is not None and named.part is not None:
                change = part_of(change, named.part, whole_shape)
            if change is not None:
                changes[site] = change.placed(target.device, target.dtype)
    _report(
        file.path,
        [n for n in tensors if n not in used and n.startswith(_TEXT) == target.is_text],
        bool(changes),
    )
    return Lora(file.path, changes)


def lora_of(use: Adjustment, target: Target) -> Lora:
    """What a model's reference says of its weights, for `target`. Raises: BadFile."""
    if isinstance(use, WeightScale):
        return scaling(use.factors, target)
    return load_lora(use.file, target)


def scaling(factors: Sequence[tuple[str, float]], target: Target) -> Lora:
    """Layers times factors, by the endings of their names."""
    changes: dict[str, Change] = {}
    for site in target.sites:
        for ending, factor in factors:
            if factor != 1.0 and re.search(ending, site):
                changes[site] = Scaled(factor)
    return Lora("scaled weights", changes)


def own_weight(module: torch.nn.Module, site: str) -> Weight:
    """A layer's own weight and bias, whole; they stay what they are when other layers are asked for."""
    layer = module.get_submodule(site)
    assert isinstance(layer, Linear | Conv2d)
    dtype = layer.computes or layer.weight.dtype
    return Weight(whole(layer, dtype), None if layer.bias is None else layer.bias.to(dtype))


def sites_of(
    given: Sequence[Sequence[Patch]], places: int, device: torch.device, copies: Copies
) -> dict[str, Site]:
    """Each row's LoRAs -> what every layer does in the pass.

    places: of the pass's input, latent pixels or tokens of all rows.
    Changes that can stand beside the layer's product do so, once for neighbouring rows that share them. Where
    one in a row's stack can't, or all rows have had one stack for long enough (`merged.pays`), the rows get
    weights with the stack in them.
    """
    stacks = [tuple(patch for patch in stack if patch.strength != 0.0) for stack in given]
    if len(set(stacks)) == 1 and stacks[0] and copies.whole(stacks[0], places):
        replaced = {stacks[0]: sites_changed(stacks[0])}
    else:
        replaced = {stack: _not_beside(stack) for stack in set(stacks)}
    others = _others(stacks, replaced, copies)
    paths = _paths(stacks, replaced, device)
    copies.trim([stack for stack, sites in replaced.items() if sites])
    return {
        site: Site(tuple(paths.get(site, ())), tuple(others.get(site, ()))) for site in {**paths, **others}
    }


def _not_beside(stack: Stack) -> set[str]:
    """Sites where a change of the stack depends on the weight, or is as much work as the layer."""
    changes = ((site, change) for patch in stack for site, change in patch.lora.changes.items())
    return {site for site, change in changes if not change.beside}


def _others(
    stacks: Sequence[Stack], replaced: dict[Stack, set[str]], copies: Copies
) -> dict[str, list[tuple[slice, Weight]]]:
    """The rows of each site that have weights of their own, in order of rows."""
    found: dict[str, list[tuple[slice, Weight]]] = defaultdict(list)
    for stack, rows in _blocks(stacks):
        for site in replaced[stack]:
            found[site].append((rows, copies.weight(stack, site)))
    return found


def _blocks(stacks: Sequence[Stack]) -> list[tuple[Stack, slice]]:
    """Neighbouring rows of one stack."""
    found: list[tuple[Stack, slice]] = []
    for row, stack in enumerate(stacks):
        if found and found[-1][0] == stack:
            found[-1] = (stack, slice(found[-1][1].start, row + 1))
        else:
            found.append((stack, slice(row, row + 1)))
    return found


def _paths(
    stacks: Sequence[Stack], replaced: dict[Stack, set[str]], device: torch.device
) -> dict[str, list[SidePath]]:
    """The side paths of each site, a LoRA's rows together where they are neighbours."""
    uses: dict[tuple[Lora, str], dict[int, float]] = defaultdict(dict)
    for row, stack in enumerate(stacks):
        for patch in stack:
            for site in patch.lora.changes.keys() - replaced[stack]:
                used = uses[patch.lora, site]
                used[row] = used.get(row, 0.0) + patch.strength
    found: dict[str, list[SidePath]] = defaultdict(list)
    tensors: dict[tuple[float, ...], torch.Tensor] = {}
    for (lora, site), strengths in uses.items():
        change = lora.changes[site]
        assert isinstance(change, Delta | Kron)
        for rows in runs([row for row, strength in strengths.items() if strength != 0.0]):
            values = tuple(strengths[row] for row in range(rows.start, rows.stop))
            if values not in tensors:
                tensors[values] = torch.tensor(values, device=device)
            found[site].append(SidePath(change, rows, tensors[values]))
    return found


def _report(path: str, unused: list[str], matched: bool) -> None:
    if unused:
        shown = ", ".join(unused[:3]) + (" ..." if len(unused) > 3 else "")
        nothing = "" if matched else "; nothing in it fits this model"
        _log.warning("%s: %d LoRA tensors not used (%s)%s", path, len(unused), shown, nothing)
