"""Where in a latent, when in a run, and how much a condition counts; several conditions become one estimate.

Sizes and places are in latent pixels, one number per axis behind the channels: (H, W), or (T, H, W).
"""

from collections.abc import Mapping, Sequence
from math import inf, prod

import torch
from torch import Tensor

from backend.errors import UnsupportedOption
from backend.sampling.discretization import NoiseRange
from backend.values import frozen

FEATHER = 8  # most latent pixels over which a rectangle fades out towards its neighbours
LEAST_BOUNDS = 8  # sides of the smallest rectangle that is put around a mask
NOTHING = 1e-37  # the weight of no condition at all: keeps 0 / 0 away
OPTIONS = frozenset(
    {
        "area",
        "strength",
        "mask",
        "mask_strength",
        "set_area_to_bounds",
        "start_percent",
        "end_percent",
        "clip_start_percent",
        "clip_end_percent",
    }
)


@frozen
class Box:
    """A rectangle. It may reach over the latent's end; what is over is left out."""

    size: tuple[int, ...]
    start: tuple[int, ...]

    def within(self, dims: Sequence[int]) -> "Box":
        """The part of it inside a latent of these dims. Raises: UnsupportedOption where there is none."""
        size = tuple(min(n, d - s) for n, d, s in zip(self.size, dims, self.start, strict=True))
        if min(size) < 1:
            at = f"{list(self.size)} at {list(self.start)}"
            remedy = f"Move it into the latent, which is {list(dims)} latent pixels large."
            raise UnsupportedOption("conditioning area", at, remedy)
        return Box(size, self.start)

    def crop(self, x: Tensor) -> Tensor:
        """The box of x [..., *dims], a view."""
        first = x.ndim - len(self.size)
        for axis, (size, start) in enumerate(zip(self.size, self.start, strict=True)):
            x = x.narrow(first + axis, start, min(size, x.shape[first + axis] - start))
        return x

    def holds(self, other: "Box") -> bool:
        lows = all(a <= b for a, b in zip(self.start, other.start, strict=True))
        ends = zip(self.start, self.size, other.start, other.size, strict=True)
        return lows and all(a + m >= b + n for a, m, b, n in ends)

    @property
    def volume(self) -> int:
        return prod(self.size)


@frozen(eq=False)
class Region:
    """mask [B, *dims], 0..1 as a rule, or None; begins, ends: the sigmas between which it counts; asked: the
    box as it was asked for, which may reach over the latent's end.
    """

    box: Box | None = None
    mask: Tensor | None = None
    strength: float = 1.0
    begins: float = inf
    ends: float = -inf
    asked: Box | None = None

    def counts(self, sigma: Tensor) -> bool:
        """At this noise level (0-dim). Both ends are part of the range."""
        return bool(sigma <= self.begins) and bool(sigma >= self.ends)

    def crop(self, x: Tensor) -> Tensor:
        """The part of a latent [B, C, *dims] that the condition is computed for."""
        return x if self.box is None else self.box.crop(x)

    def weight(self, x: Tensor) -> Tensor:
        """How much the condition counts at each place of its part of x [B, C, *dims], broadcastable to it."""
        if self.mask is not None:
            mask = self.mask[: len(x)].to(x.device)
            mask = mask if self.box is None else self.box.crop(mask)
            copies = -(-len(x) // len(mask))
            return (mask.repeat(copies, *[1] * (mask.ndim - 1))[: len(x)] * self.strength).unsqueeze(1)
        dims = x.shape[2:]
        if self.box is None:
            return torch.full((1,) * x.ndim, self.strength, device=x.device)
        return _feathered(self.box, dims).to(x.device) * self.strength

    @property
    def plain(self) -> bool:
        """It counts everywhere alike."""
        return self.box is None and self.mask is None


EVERYWHERE = Region()


def region_of(options: Mapping[str, object], dims: Sequence[int], noise: NoiseRange) -> Region:
    """What ComfyUI's options of a condition say, for a latent of these dims.

    Raises: UnsupportedOption for an area outside of it.
    """
    area = options.get("area")
    box = None if area is None else _box(area, dims)  # type: ignore[arg-type]  # a tuple of numbers
    strength = float(options.get("strength", 1.0))  # type: ignore[arg-type]  # a number
    mask = options.get("mask")
    if isinstance(mask, Tensor):
        mask = _fitted(mask, dims)
        strength *= float(options.get("mask_strength", 1.0))  # type: ignore[arg-type]  # a number
        if options.get("set_area_to_bounds"):
            box = bounds(mask)
    begins, ends = _times(options, noise)
    inside = None if box is None else box.within(dims)
    return Region(inside, mask if isinstance(mask, Tensor) else None, strength, begins, ends, asked=box)


def bounds(mask: Tensor) -> Box:
    """The smallest box, of at least `LEAST_BOUNDS` a side, around all of a mask [B, *dims] that isn't 0."""
    present = mask.ne(0).any(0)
    size, start = list(present.shape), [0] * present.ndim
    for axis in (present.ndim - 2, present.ndim - 1):
        others = [other for other in range(present.ndim) if other != axis]
        places = present.any(dim=others).nonzero()
        first = int(places[0]) if len(places) else 0
        start[axis] = first
        size[axis] = max(LEAST_BOUNDS, int(places[-1]) + 1 - first) if len(places) else LEAST_BOUNDS
    return Box(tuple(size), tuple(start))


def combined(x: Tensor, parts: Sequence[tuple[Region, Tensor]]) -> Tensor:
    """Estimates, each [B, C, *its box], averaged by weight into one like x; 0 where there is none."""
    if len(parts) == 1 and parts[0][0].plain and parts[0][0].strength > 0:
        return parts[0][1]
    total, count = torch.zeros_like(x), torch.full_like(x, NOTHING)
    for region, estimate in parts:
        weight = region.weight(x)
        region.crop(total).add_(estimate * weight)
        region.crop(count).add_(weight)
    return total / count


def _box(area: Sequence[float | str], dims: Sequence[int]) -> Box:
    """ComfyUI's area: sizes, then places; latent pixels, or parts of the whole behind "percentage"."""
    if area[0] == "percentage":
        shares = [float(share) for share in area[1:]]
        half = len(shares) // 2
        # parts are given for height and width; on a latent with frames they apply to all of these
        shares = [*[1.0] * (len(dims) - half), *shares[:half], *[0.0] * (len(dims) - half), *shares[half:]]
        size = tuple(max(1, round(share * n)) for share, n in zip(shares, dims, strict=False))
        return Box(size, tuple(round(s * n) for s, n in zip(shares[len(dims) :], dims, strict=True)))
    numbers = [int(number) for number in area]
    half = len(numbers) // 2
    missing = max(0, len(dims) - half)
    sizes = [*dims[:missing], *numbers[:half]][: len(dims)]
    return Box(tuple(sizes), tuple([*[0] * missing, *numbers[half:]][: len(dims)]))


def _fitted(mask: Tensor, dims: Sequence[int]) -> Tensor:
    """A mask in the latent's size: [B, *dims]."""
    if mask.ndim == len(dims):
        mask = mask.unsqueeze(0)
    if tuple(mask.shape[-2:]) == tuple(dims[-2:]):
        return mask
    flat = mask.reshape(-1, 1, *mask.shape[-2:]).float()
    sized = torch.nn.functional.interpolate(flat, size=tuple(dims[-2:]), mode="bilinear")
    return sized.reshape(*mask.shape[:-2], *dims[-2:])


def _times(options: Mapping[str, object], noise: NoiseRange) -> tuple[float, float]:
    def percent(name: str, default: float) -> float:
        return float(options.get(name, default))  # type: ignore[arg-type]  # a number

    start, end = percent("start_percent", 0.0), percent("end_percent", 1.0)
    if "clip_start_percent" in options:
        start = max(start, percent("clip_start_percent", 0.0))
        end = min(end, percent("clip_end_percent", 1.0))
    begins = inf if start <= 0.0 else noise.percent_to_sigma(start)
    return begins, -inf if end >= 1.0 else noise.percent_to_sigma(end)


def _feathered(box: Box, dims: Sequence[int]) -> Tensor:
    """[1, 1, *box]: 1, fading at the sides that are not the latent's own edges."""
    weight = torch.ones(1, 1, *box.size)
    for axis, (size, start, whole) in enumerate(zip(box.size, box.start, dims, strict=True)):
        reach = min(FEATHER, size // 4)
        for step in range(reach):
            faded = (1.0 / reach) * (step + 1)
            if start != 0:
                weight.narrow(axis + 2, step, 1).mul_(faded)
            if start + size < whole:
                weight.narrow(axis + 2, size - 1 - step, 1).mul_(faded)
    return weight
