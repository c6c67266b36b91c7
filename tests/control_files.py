"""ControlNets for small checkpoints, as files."""

from collections.abc import Iterator
from itertools import count, pairwise, takewhile
from pathlib import Path

import torch
from safetensors.torch import load_file

ROOT = "control_model."
_UNET = "model.diffusion_model."
_COPIED = tuple(_UNET + part for part in ("time_embed", "input_blocks", "middle_block"))


def control_tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    """A ControlNet for a checkpoint's UNet, by the original names: its input side, and new convolutions."""
    rng = torch.Generator().manual_seed(5)

    def conv(name: str, into: int, out: int, kernel: int) -> None:
        kept[f"{ROOT}{name}.weight"] = torch.randn(out, into, kernel, kernel, generator=rng) * 0.1
        kept[f"{ROOT}{name}.bias"] = torch.randn(out, generator=rng) * 0.1

    unet = load_file(checkpoint)
    kept = {ROOT + n.removeprefix(_UNET): v.float() for n, v in unet.items() if n.startswith(_COPIED)}
    widths = list(_widths(unet))
    for number, width in enumerate(widths):
        conv(f"zero_convs.{number}.0", width, width, 1)
    conv("middle_block_out.0", widths[-1], widths[-1], 1)
    hint = [3, 16, 16, 32, 32, 96, 96, 256, widths[0]]
    for number, (into, out) in enumerate(pairwise(hint)):
        conv(f"input_hint_block.{2 * number}", into, out, 3)
    return kept


def _widths(unet: dict[str, torch.Tensor]) -> Iterator[int]:
    """What each input block hands on."""

    def width(number: int) -> int:
        ends = (".weight", ".op.weight", ".out_layers.3.weight")
        names = (f"{_UNET}input_blocks.{number}.0{end}" for end in ends)
        return next((len(unet[name]) for name in names if name in unet), 0)

    return takewhile(bool, map(width, count()))
