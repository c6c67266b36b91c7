"""What a LoRA file changes in one layer: values, and the weight that comes of them.

`Delta` and `Kron` are sums: their products can stand beside the layer's own. `Decomposed` and `Rotation`
depend on the weight they change, and so on what other LoRAs did to it before.
Sources: LoRA arXiv:2106.09685, LoHa arXiv:2108.06098, LoKr and Tucker forms arXiv:2309.14859, DoRA
arXiv:2402.09353, OFT arXiv:2306.07280; strengths and norms as ComfyUI applies them.
"""

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from backend.values import frozen


@frozen(eq=False)
class Delta:
    """A change of one layer's weight: up @ down, or `weight` where it is not of low rank; and of its bias.

    Linear: down [r, in], up [out, r]. Conv2d: down [r, in, h, w], up [out, r, 1, 1], mid [r, r, h, w] or None
    (down is then [r, in, 1, 1]). scale: alpha / rank.
    """

    down: Tensor | None = None
    up: Tensor | None = None
    mid: Tensor | None = None
    scale: float = 1.0
    weight: Tensor | None = None
    bias: Tensor | None = None

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        return self.down, self.up, self.mid, self.weight, self.bias

    @property
    def beside(self) -> bool:
        """Whether its own product is much less work than the layer's."""
        return self.weight is None

    def placed(self, device: torch.device, dtype: torch.dtype) -> "Delta":
        down, up, mid, weight, bias = _put(self.tensors, device, dtype)
        return Delta(down, up, mid, self.scale, weight, bias)


@frozen(eq=False)
class Kron:
    """LoKr: scale times the Kronecker product of outer [o1, i1] and inner [o2, i2] or [o2, i2, h, w]."""

    outer: Tensor
    inner: Tensor
    scale: float = 1.0

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        return self.outer, self.inner

    @property
    def beside(self) -> bool:
        return True

    def placed(self, device: torch.device, dtype: torch.dtype) -> "Kron":
        return Kron(self.outer.to(device, dtype), self.inner.to(device, dtype), self.scale)


@frozen(eq=False)
class Decomposed:
    """DoRA: the weight with `direction` added, its outputs (or inputs) scaled to the lengths in `magnitude`.

    magnitude: [out, 1, ...] or [1, in, ...].
    """

    direction: Delta | Kron
    magnitude: Tensor

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        return *self.direction.tensors, self.magnitude

    @property
    def beside(self) -> bool:
        return False

    def placed(self, device: torch.device, dtype: torch.dtype) -> "Decomposed":
        return Decomposed(self.direction.placed(device, dtype), self.magnitude.to(device, dtype))


@frozen(eq=False)
class Rotation:
    """OFT: each of k blocks of n outputs rotated. rotations [k, n, n], float32."""

    rotations: Tensor

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        return (self.rotations,)

    @property
    def beside(self) -> bool:
        return False

    def placed(self, device: torch.device, dtype: torch.dtype) -> "Rotation":
        return Rotation(self.rotations.to(device))


@frozen
class Scaled:
    """The weight and the bias, with all that was added to them before, times a factor; its strength is 1."""

    factor: float

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        return ()

    @property
    def beside(self) -> bool:
        return False

    def placed(self, device: torch.device, dtype: torch.dtype) -> "Scaled":
        return self


Change: TypeAlias = Delta | Kron | Decomposed | Rotation | Scaled


def part_of(change: Change, part: tuple[int, int, int], shape: Sequence[int]) -> Change | None:
    """The change of some of a layer's outputs, where that is a layer of its own here.

    Args: part: from which share to which (not included), of how many; shape: of the whole weight.
    Returns: None where the change hangs on all outputs together.
    """
    first, last, of = part
    rows = slice(shape[0] // of * first, shape[0] // of * last)
    match change:
        case Delta():
            up, weight, bias = (
                None if t is None else t[rows] for t in (change.up, change.weight, change.bias)
            )
            return Delta(change.down, up, change.mid, change.scale, weight, bias)
        case Kron(outer, inner, scale):
            high = len(inner)
            if rows.start % high or rows.stop % high:
                return Delta(weight=dense(change, shape)[rows])
            return Kron(outer[rows.start // high : rows.stop // high], inner, scale)
        case Decomposed(direction, magnitude):
            inner_change = part_of(direction, part, shape)
            if magnitude.shape[0] != shape[0] or not isinstance(inner_change, Delta | Kron):
                return None
            return Decomposed(inner_change, magnitude[rows])
        case Scaled():
            return change
        case Rotation(rotations):
            high = rotations.shape[1]
            aligned = rows.start % high == 0 and rows.stop % high == 0
            return Rotation(rotations[rows.start // high : rows.stop // high]) if aligned else None


def nbytes(change: Change) -> int:
    return sum(part.nbytes for part in change.tensors if part is not None)


def dense(change: Delta | Kron, shape: Sequence[int]) -> Tensor:
    """The change of a weight of this shape as one tensor, at strength 1."""
    if isinstance(change, Kron):
        ones = (1,) * (change.inner.ndim - 2)
        return torch.kron(change.outer.reshape(*change.outer.shape, *ones), change.inner) * change.scale
    if change.down is None or change.up is None:
        return torch.zeros(tuple(shape)) if change.weight is None else change.weight
    down = change.down
    if change.mid is not None:
        down = torch.einsum("ji,ojhw->oihw", down[:, :, 0, 0], change.mid)
    product = (change.up.flatten(1) @ down.flatten(1)).reshape(tuple(shape)) * change.scale
    return product if change.weight is None else product + change.weight


def changed(weight: Tensor, change: Change, strength: float) -> Tensor:
    """A new weight: `weight` with the change at this strength. It keeps dtype and memory format."""
    base = weight.float()
    match change:
        case Delta() | Kron():
            result = torch.add(base, dense(change, base.shape).float(), alpha=strength)
        case Decomposed():
            result = torch.lerp(base, _decomposed(base, change), strength)
        case Rotation(rotations=rotations):
            blocks = base.reshape(*rotations.shape[:2], -1)
            step = rotations - torch.eye(rotations.shape[1], device=rotations.device)
            turned = torch.einsum("knm,knx->kmx", step, blocks).reshape(base.shape)
            result = base + turned * strength**2  # ComfyUI multiplies by the strength twice
        case Scaled(factor):
            result = base * factor
    last = weight.ndim == 4 and weight.is_contiguous(memory_format=torch.channels_last)
    order = torch.channels_last if last else torch.contiguous_format
    return result.to(weight.dtype).contiguous(memory_format=order)


def _decomposed(weight: Tensor, change: Decomposed) -> Tensor:
    """As ComfyUI 0.3.64: outputs have their lengths before the change, inputs those after it."""
    after = weight + dense(change.direction, weight.shape).float()
    magnitude = change.magnitude.float()
    if magnitude.shape[0] == weight.shape[0]:
        length = weight.flatten(1).norm(dim=1).reshape(-1, *[1] * (weight.ndim - 1))
    else:
        length = after.transpose(0, 1).flatten(1).norm(dim=1).reshape(1, -1, *[1] * (weight.ndim - 2))
    scaled: Tensor = after * (magnitude / (length + torch.finfo(weight.dtype).eps))
    return scaled


def _put(
    tensors: Sequence[Tensor | None], device: torch.device, dtype: torch.dtype
) -> tuple[Tensor | None, ...]:
    return tuple(None if part is None else part.to(device, dtype) for part in tensors)
