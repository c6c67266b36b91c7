"""LoRA files: any naming dialect -> changes of layers; many users' changes -> side paths of one batch."""

import logging
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from backend.errors import BadFile
from backend.models.adapters import Delta, SidePath
from backend.models.weights import open_file
from backend.references import File

_log = logging.getLogger(__name__)
# (ending of the up matrix, ending of the down matrix) of each dialect, behind the layer's name
_PAIRS = (
    (".lora_up.weight", ".lora_down.weight"),  # kohya
    ("_lora.up.weight", "_lora.down.weight"),  # diffusers, with attention processors
    (".lora_B.weight", ".lora_A.weight"),  # PEFT
    (".lora.up.weight", ".lora.down.weight"),  # diffusers
    (".lora_B", ".lora_A"),
    (".lora_linear_layer.up.weight", ".lora_linear_layer.down.weight"),  # diffusers, text encoders
    (".lora_B.default.weight", ".lora_A.default.weight"),
)
_FOREIGN = re.compile(r"\.(hada_|lokr_|oft_|dora_scale|a1\.weight|set_weight|reshape_weight|w_norm|b_norm)")
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

    def lora_names(self, site: str) -> tuple[str, ...]:
        """What a file may call the layer, without endings."""


@dataclass(frozen=True, slots=True, eq=False)
class Lora:
    """A LoRA file, bound to one target: the change of each of its layers."""

    path: str
    deltas: Mapping[str, Delta]

    @property
    def nbytes(self) -> int:
        return sum(delta.nbytes for delta in self.deltas.values())


@dataclass(frozen=True, slots=True)
class Patch:
    """A LoRA at a strength; any number, negative too."""

    lora: Lora
    strength: float


def load_lora(file: File, target: Target) -> Lora:
    """The part of a LoRA file that changes `target`, on its device and in its dtype.

    A file that has nothing for the target gives a Lora without deltas: many have the denoiser alone.
    What the file has for this kind of target and this one lacks is logged. Raises: BadFile where the file is
    damaged, or of a kind of adapter that is not of low rank.
    """
    tensors = dict(open_file(file).tensors())
    if foreign := next((name for name in tensors if _FOREIGN.search(name)), None):
        remedy = "Use a LoRA of plain up and down matrices, or merge this one into a checkpoint."
        raise BadFile(file.path, f"tensor {foreign!r} is of an adapter that this server can't apply", remedy)
    used: set[str] = set()
    deltas: dict[str, Delta] = {}
    for site in target.sites:
        shape = target.weight_shape(site)
        for name in target.lora_names(site):
            raw = _raw(file.path, name, tensors, used)
            if raw is not None and (delta := _fit(file.path, name, raw, shape)) is not None:
                deltas[site] = _placed(delta, target)
    _report(
        file.path,
        [n for n in tensors if n not in used and n.startswith(_TEXT) == target.is_text],
        bool(deltas),
    )
    return Lora(file.path, deltas)


def side_paths(stacks: Sequence[Sequence[Patch]], device: torch.device) -> dict[str, list[SidePath]]:
    """Each row's LoRAs -> the side paths of every layer. Rows with the same LoRA share its products."""
    uses: dict[Lora, dict[int, float]] = defaultdict(dict)
    for row, stack in enumerate(stacks):
        for patch in stack:
            uses[patch.lora][row] = uses[patch.lora].get(row, 0.0) + patch.strength
    paths: dict[str, list[SidePath]] = defaultdict(list)
    for lora, strengths in uses.items():
        rows = [row for row, strength in strengths.items() if strength != 0.0]
        if not rows:
            continue
        index = None if len(rows) == len(stacks) else torch.tensor(rows, device=device)
        scales = torch.tensor([strengths[row] for row in rows], device=device)
        for site, delta in lora.deltas.items():
            paths[site].append(SidePath(delta, index, scales))
    return dict(paths)


def dense(delta: Delta, shape: Sequence[int]) -> Tensor:
    """The change of a weight of this shape as one tensor, at strength 1."""
    total = torch.zeros(tuple(shape)) if delta.weight is None else delta.weight
    if delta.down is None or delta.up is None:
        return total
    down = delta.down
    if delta.mid is not None:
        down = torch.einsum("ji,ojhw->oihw", down[:, :, 0, 0], delta.mid)
    product = delta.up.flatten(1) @ down.flatten(1)
    return total + product.reshape(tuple(shape)) * delta.scale


def _raw(path: str, name: str, tensors: Mapping[str, Tensor], used: set[str]) -> Delta | None:
    """What the file has under one of a layer's names, as it stands there."""
    pair = next(((u, d) for u, d in _PAIRS if name + u in tensors), None)
    extra = {
        end: name + end for end in (".alpha", ".lora_mid.weight", ".diff", ".diff_b") if name + end in tensors
    }
    if pair is None and not extra.keys() & {".diff", ".diff_b"}:
        return None
    used.update(extra.values())
    found = {end: tensors[full] for end, full in extra.items()}
    up = down = None
    scale = 1.0
    if pair is not None:
        up_name, down_name = name + pair[0], name + pair[1]
        if down_name not in tensors:
            raise BadFile(
                path, f"{up_name!r} has no {down_name!r} beside it", "Download or copy the file again."
            )
        used.update((up_name, down_name))
        up, down = tensors[up_name], tensors[down_name]
        scale = float(found[".alpha"]) / down.shape[0] if ".alpha" in found else 1.0
    return Delta(down, up, found.get(".lora_mid.weight"), scale, found.get(".diff"), found.get(".diff_b"))


def _fit(path: str, name: str, raw: Delta, shape: Sequence[int]) -> Delta | None:
    """The delta in the layer's own shape; None, and a warning, where it is for a layer of another size."""
    ones = (1,) * (len(shape) - 2)
    try:
        down, up = raw.down, raw.up
        if down is not None and up is not None:
            kernel = ones if raw.mid is not None else tuple(shape[2:])
            down = down.reshape(down.shape[0], shape[1], *kernel)
            up = up.reshape(shape[0], down.shape[0], *ones)
        weight = None if raw.weight is None else raw.weight.reshape(tuple(shape))
        bias = None if raw.bias is None else raw.bias.reshape(shape[0])
    except RuntimeError:
        _log.warning("%s: %s does not fit a layer of shape %s; left out", path, name, list(shape))
        return None
    return Delta(down, up, raw.mid, raw.scale, weight, bias)


def _placed(delta: Delta, target: Target) -> Delta:
    def put(value: Tensor | None) -> Tensor | None:
        return None if value is None else value.to(target.device, target.dtype)

    parts = (put(delta.down), put(delta.up), put(delta.mid), delta.scale, put(delta.weight), put(delta.bias))
    return Delta(*parts)


def _report(path: str, unused: list[str], matched: bool) -> None:
    if unused:
        shown = ", ".join(unused[:3]) + (" ..." if len(unused) > 3 else "")
        nothing = "" if matched else "; nothing in it fits this model"
        _log.warning("%s: %d LoRA tensors not used (%s)%s", path, len(unused), shown, nothing)
