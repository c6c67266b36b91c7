"""One layer's part of a LoRA file, in any dialect -> its change.

Endings stand behind the layer's name; which names a layer may have, the family says (`lora_names`).
"""

import logging
import re
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from backend.errors import BadFile
from backend.models.changes import Change, Decomposed, Delta, Kron, Rotation
from backend.values import frozen

_log = logging.getLogger(__name__)
# (ending of the up matrix, ending of the down matrix)
_PAIRS = (
    (".lora_up.weight", ".lora_down.weight"),  # kohya
    ("_lora.up.weight", "_lora.down.weight"),  # diffusers, with attention processors
    (".lora_B.weight", ".lora_A.weight"),  # PEFT
    (".lora.up.weight", ".lora.down.weight"),  # diffusers
    (".lora_B", ".lora_A"),
    (".lora_linear_layer.up.weight", ".lora_linear_layer.down.weight"),  # diffusers, text encoders
    (".lora_B.default.weight", ".lora_A.default.weight"),
)
_FOREIGN = re.compile(r"\.(a1\.weight|oft_diag|set_weight|reshape_weight|w_norm|b_norm)$")
_TORN = "Download or copy the file again."


def foreign(tensors: Mapping[str, Tensor]) -> str | None:
    """A tensor of an adapter that no dialect here can express (GLoRA, BOFT, trained norms ...)."""
    for name, value in tensors.items():
        if _FOREIGN.search(name) or (name.endswith(".oft_blocks") and value.ndim != 3):
            return name
    return None


@frozen
class Part:
    """What a file has under one name of a layer. used: collects the names of the tensors that were taken."""

    path: str
    name: str
    tensors: Mapping[str, Tensor]
    used: set[str]

    def get(self, ending: str) -> Tensor | None:
        full = self.name + ending
        if full in self.tensors:
            self.used.add(full)
        return self.tensors.get(full)

    def need(self, ending: str, beside: str) -> Tensor:
        """Raises: BadFile where it is missing, though `beside` is there."""
        if (found := self.get(ending)) is None:
            raise BadFile(self.path, f"{self.name + beside!r} has no {self.name + ending!r} beside it", _TORN)
        return found

    def scale(self, rank: int | None) -> float:
        """alpha / rank; 1 where the file does not say, or nothing has a rank."""
        alpha = self.get(".alpha")
        return 1.0 if alpha is None or rank is None else float(alpha) / rank


def read_change(part: Part, shape: Sequence[int]) -> Change | None:
    """The change of a layer whose weight has this shape; None where the file has none under this name.

    One of another size is left out with a warning. Raises: BadFile where a tensor of a set is missing.
    """
    try:
        change: Change | None = None
        for kind in _KINDS:
            if (change := kind(part, tuple(shape))) is not None:
                break
        magnitude = part.get(".dora_scale")
        if magnitude is None or change is None:
            return change
        if isinstance(change, Delta | Kron):
            return Decomposed(change, _magnitude(magnitude, shape))
    except RuntimeError:
        _log.warning("%s: %s does not fit a layer of shape %s; left out", part.path, part.name, list(shape))
        return None
    raise BadFile(part.path, f"{part.name!r} is both rotated and decomposed", "Use a LoRA of one kind.")


def _low_rank(part: Part, shape: tuple[int, ...]) -> Delta | None:
    """LoRA and LoCon, and plain differences: reshaped to the layer's own form."""
    pair = next(((u, d) for u, d in _PAIRS if part.name + u in part.tensors), None)
    weight, bias = part.get(".diff"), part.get(".diff_b")
    if pair is None and weight is None and bias is None:
        return None
    weight = None if weight is None else weight.reshape(shape)
    bias = None if bias is None else bias.reshape(shape[0])
    if pair is None:
        return Delta(weight=weight, bias=bias)
    up, down, mid = part.need(pair[0], pair[1]), part.need(pair[1], pair[0]), part.get(".lora_mid.weight")
    rank, ones = down.shape[0], (1,) * (len(shape) - 2)
    down = down.reshape(rank, shape[1], *(shape[2:] if mid is None else ones))
    return Delta(down, up.reshape(shape[0], rank, *ones), mid, part.scale(rank), weight, bias)


def _hadamard(part: Part, shape: tuple[int, ...]) -> Delta | None:
    """LoHa: the elementwise product of two products.

    Of ranks r and s it is one product of rank r s, which is kept where that is the smaller form.
    """
    if (w1a := part.get(".hada_w1_a")) is None:
        return None
    w1b, w2a, w2b = (part.need(f".hada_{end}", ".hada_w1_a") for end in ("w1_b", "w2_a", "w2_b"))
    scale = part.scale(w1b.shape[0])
    if (t1 := part.get(".hada_t1")) is not None:
        t2 = part.need(".hada_t2", ".hada_t1")
        return Delta(weight=(_tucker(t1, w1a, w1b) * _tucker(t2, w2a, w2b) * scale).reshape(shape))
    w1a, w1b, w2a, w2b = w1a.float(), w1b.float().flatten(1), w2a.float(), w2b.float().flatten(1)
    rank, wide = w1b.shape[0] * w2b.shape[0], w1b.shape[1]
    if rank * (shape[0] + wide) >= shape[0] * wide:
        return Delta(weight=((w1a @ w1b) * (w2a @ w2b) * scale).reshape(shape))
    up = (w1a[:, :, None] * w2a[:, None, :]).reshape(shape[0], rank, *(1,) * (len(shape) - 2))
    down = (w1b[:, None, :] * w2b[None, :, :]).reshape(rank, *shape[1:])
    return Delta(down, up, None, scale)


def _kronecker(part: Part, shape: tuple[int, ...]) -> Kron | None:
    """LoKr: either factor whole, or a product of its own."""
    if not any(part.name + end in part.tensors for end in (".lokr_w1", ".lokr_w1_a")):
        return None
    outer, first = _factor(part, "w1", None)
    inner, second = _factor(part, "w2", part.get(".lokr_t2"))
    rank = first if second is None else second  # ComfyUI's choice where both have one
    inner = inner.reshape(shape[0] // outer.shape[0], shape[1] // outer.shape[1], *shape[2:]).contiguous()
    return Kron(outer, inner, part.scale(rank))


def _factor(part: Part, which: str, core: Tensor | None) -> tuple[Tensor, int | None]:
    """One factor of a LoKr, and its rank where it has one."""
    if (whole := part.get(f".lokr_{which}")) is not None:
        return whole.float(), None
    a = part.need(f".lokr_{which}_a", f".lokr_{which}_b")
    b = part.need(f".lokr_{which}_b", f".lokr_{which}_a")
    return (a.float() @ b.float().flatten(1) if core is None else _tucker(core, a, b)), b.shape[0]


def _rotation(part: Part, shape: tuple[int, ...]) -> Rotation | None:
    """OFT: alpha bounds how far the blocks turn, all together; `rescale` is not applied, as in ComfyUI."""
    if (blocks := part.get(".oft_blocks")) is None:
        return None
    part.get(".rescale")
    if blocks.shape[0] * blocks.shape[1] != shape[0]:
        raise RuntimeError(f"{blocks.shape[0]} blocks of {blocks.shape[1]} are not {shape[0]} outputs")
    skew = blocks.float() - blocks.float().transpose(1, 2)
    alpha = part.get(".alpha")
    bound, norm = 0.0 if alpha is None else float(alpha), float(skew.norm()) + 1e-8
    if 0 < bound < norm:
        skew = skew * (bound / norm)
    eye = torch.eye(blocks.shape[1])
    return Rotation((eye + skew) @ torch.linalg.inv(eye - skew))


_KINDS: tuple[Callable[[Part, tuple[int, ...]], Change | None], ...] = (
    _low_rank,
    _hadamard,
    _kronecker,
    _rotation,
)


def _tucker(core: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """core [r, s, h, w], a [r, out], b [s, in] -> [out, in, h, w]."""
    return torch.einsum("rshw,ro,si->oihw", core.float(), a.float(), b.float())


def _magnitude(value: Tensor, shape: Sequence[int]) -> Tensor:
    """[out, 1, ...] or [1, in, ...], whichever the file has."""
    ones = (1,) * (len(shape) - 2)
    by_output = value.ndim > 0 and value.shape[0] == shape[0]
    return value.reshape(shape[0], 1, *ones) if by_output else value.reshape(1, shape[1], *ones)
