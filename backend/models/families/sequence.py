"""What transformers over pictures share: patches as tokens, their places, and rotations by place.

Source of the rotations: arXiv:2104.09864, along several axes as in arXiv:2403.13298.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

PATCH = 2  # latent pixels along a patch's side, in all of these
REFERENCE = "reference"  # extra inputs `reference.<method>.<number>`: pictures that an edit is made from


def padded(x: Tensor) -> Tensor:
    """x [..., H, W] with whole patches: what is missing is taken from the other edge."""
    bottom, right = x.shape[-2] % PATCH, x.shape[-1] % PATCH
    if not bottom and not right:
        return x
    flat = F.pad(x.flatten(0, -4) if x.ndim > 4 else x, (0, right, 0, bottom), mode="circular")
    return flat.reshape(*x.shape[:-2], *flat.shape[-2:])


def to_tokens(x: Tensor) -> Tensor:
    """[R, C, H, W] with whole patches -> [R, H/2 * W/2, C * 4]; a token is ordered by channel, row,
    column.
    """
    rows, channels, height, width = x.shape
    split = x.reshape(rows, channels, height // PATCH, PATCH, width // PATCH, PATCH)
    return split.permute(0, 2, 4, 1, 3, 5).reshape(rows, -1, channels * PATCH * PATCH)


def from_tokens(tokens: Tensor, height: int, width: int, channels_last: bool = False) -> Tensor:
    """The inverse of `to_tokens`, for a latent of any height and width: what was padded is cut off.

    channels_last: a token is ordered by row, column, channel.
    """
    across, down = -(-width // PATCH), -(-height // PATCH)
    if channels_last:
        split = tokens.reshape(len(tokens), down, across, PATCH, PATCH, -1).permute(0, 5, 1, 3, 2, 4)
    else:
        split = tokens.reshape(len(tokens), down, across, -1, PATCH, PATCH).permute(0, 3, 1, 4, 2, 5)
    return split.reshape(len(tokens), -1, down * PATCH, across * PATCH)[..., :height, :width]


def grid(height: int, width: int, *, index: float = 0, top: float = 0, left: float = 0) -> Tensor:
    """Places of height x width patches: float64 [height * width, 3] of picture, row and column."""
    places = torch.zeros(height, width, 3, dtype=torch.float64)
    places[..., 0] = index
    places[..., 1] = torch.arange(height)[:, None] + top
    places[..., 2] = torch.arange(width)[None, :] + left
    return places.flatten(0, 1)


def patches(length: int) -> int:
    """How many patches cover a length in latent pixels."""
    return -(-length // PATCH)


def angles(places: Tensor, axes: Sequence[int], theta: float) -> Tensor:
    """places [S, A] -> float64 [S, sum(axes) / 2]: how far each pair of a head's channels is turned.

    axes: channels of a head that tell each of the A axes apart, even numbers.
    """
    turned = []
    for axis, width in enumerate(axes):
        scale = torch.arange(0, width, 2, dtype=torch.float64) / width
        turned.append(places[:, axis, None].double() / theta**scale)
    return torch.cat(turned, dim=1)


def turns(angle: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines of angles [S, D / 2], each float32 [S, D] with every pair's number twice."""
    twice = angle.repeat_interleave(2, dim=1)
    return twice.cos().float().to(device), twice.sin().float().to(device)


def phases(angle: Tensor, device: torch.device) -> Tensor:
    """Angles [S, D / 2] as complex64 numbers of length 1."""
    return torch.polar(torch.ones_like(angle), angle).to(device, torch.complex64)


def reference_pictures(extra: Mapping[str, Tensor]) -> tuple[str, list[Tensor]]:
    """The method by which reference pictures are placed ("" without any), and the pictures in order."""
    found = {name: value for name, value in extra.items() if name.startswith(REFERENCE + ".")}
    method = next(iter(found)).split(".")[1] if found else ""
    ordered = sorted(found, key=lambda name: int(name.rpartition(".")[2]))
    return method, [found[name] for name in ordered]


def reference_places(
    method: str, sizes: Sequence[tuple[int, int]], own: tuple[int, int]
) -> Iterator[tuple[int, int, int]]:
    """(index, top, left) of every reference picture, the offsets in latent pixels.

    Args: method: "index" numbers the pictures, "uxo" puts each down and right of all before it, "offset" puts
        them side by side as one picture of index 1; sizes: of the pictures, own: of the latent, rows by
        columns.
    """
    below = right = 0
    first = (patches(own[0]) * PATCH, patches(own[1]) * PATCH)
    for number, (height, width) in enumerate(sizes, 1):
        if method == "index":
            yield number, 0, 0
        elif method == "uxo":
            yield 0, first[0] + below, first[1] + right
            below, right = below + height, right + width
        else:
            top, left = (0, right) if height + below > width + right else (below, 0)
            yield 1, top, left
            below, right = max(below, height + top), max(right, width + left)


def rounded(offset: int) -> int:
    """An offset in latent pixels -> in patches, as ComfyUI rounds it."""
    return (offset + PATCH // 2) // PATCH
