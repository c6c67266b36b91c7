"""Measure forward passes alone, without a server: UNet by rows, VAE, text encoder, and what LoRAs cost.

    .venv/bin/python scripts/bench_forward.py CHECKPOINT [--lora FILE] [--repeats 5]

CPU time on one thread, so that other work on the machine counts little; the median of runs in turn.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from backend.components import ComponentKind, File, Weights  # noqa: E402
from backend.models.changes import changed  # noqa: E402
from backend.models.denoiser import Denoiser, load_denoiser  # noqa: E402
from backend.models.lora import Patch, load_lora  # noqa: E402
from backend.models.text import Request, Working, encode_text, load_text_encoder  # noqa: E402
from backend.models.vae import load_vae  # noqa: E402

CPU = torch.device("cpu")
Work = Callable[[], object]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("checkpoint", type=Path, help="of Stable Diffusion 1.x, with text encoder and VAE")
    parser.add_argument("--lora", type=Path, help="measure this LoRA too")
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with torch.inference_mode():
        denoiser = load_denoiser(weights(asked.checkpoint, "denoiser"), CPU, torch.float32)
        show(parts(asked.checkpoint, denoiser), asked.repeats)
        if asked.lora is not None:
            show(with_lora(asked.lora, denoiser), asked.repeats)
    return 0


def parts(checkpoint: Path, denoiser: Denoiser) -> dict[str, Work]:
    """One pass of each component."""
    vae = load_vae(weights(checkpoint, "vae"), CPU, torch.float32)
    encoder = load_text_encoder(weights(checkpoint, "text_encoder"), CPU, torch.float32)
    request = Request("a cat on a table", lambda _: None)
    work: dict[str, Work] = {
        f"UNet, {n} x 16x16": partial(denoiser.forward, *rows(denoiser, n, 16)) for n in (1, 2, 4, 8)
    }
    work["UNet, 1 x 64x64"] = partial(denoiser.forward, *rows(denoiser, 1, 64))
    work["VAE decode, 16x16"] = partial(vae.decode, torch.randn(1, vae.layout.channels, 16, 16))
    work["text, one prompt"] = partial(encode_text, "sd15", [Working(encoder)], request)
    return work


def with_lora(path: Path, denoiser: Denoiser) -> dict[str, Work]:
    """Passes without the LoRA, with side paths, and with its copy; and the making of the copy.

    Half the rows at another strength keeps a pass to side paths, as stacks differ in it.
    """
    lora = load_lora(file(path), denoiser)

    def copy() -> None:
        for site, change in lora.changes.items():
            changed(denoiser.module.get_parameter(f"{site}.weight"), change, 0.8)

    work: dict[str, Work] = {f"a copy of {len(lora.changes)} weights": copy}
    for n in (2, 8):
        given = rows(denoiser, n, 16)
        mixed = [(Patch(lora, 0.8 if row < n // 2 else 0.7),) for row in range(n)]
        work[f"{n} rows, no LoRA"] = partial(denoiser.forward, *given)
        work[f"{n} rows, side paths"] = partial(denoiser.forward, *given, adapters=mixed)
        work[f"{n} rows, copy"] = partial(denoiser.forward, *given, adapters=[(Patch(lora, 0.8),)] * n)
    return work


def show(work: Mapping[str, Work], repeats: int) -> None:
    """Run everything a few times unmeasured (copies are made then), then in turn."""
    for _ in range(3):
        for run in work.values():
            run()
    taken: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(repeats):
        for name, run in work.items():
            began = time.process_time()
            run()
            taken[name].append((time.process_time() - began) * 1000)
    for name, times in taken.items():
        print(f"{name:28} {statistics.median(times):9.1f} ms", flush=True)


def rows(denoiser: Denoiser, count: int, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """x, timesteps and tokens of a pass."""
    x = torch.randn(count, denoiser.layout.in_channels, side, side)
    return x, torch.linspace(10, 900, count), torch.randn(count, 77, denoiser.layout.context)


def file(path: Path) -> File:
    state = os.stat(path)
    return File(str(path), state.st_size, state.st_mtime_ns, state.st_ino)


def weights(path: Path, kind: ComponentKind) -> Weights:
    return Weights(kind, str(path), (file(path),))


if __name__ == "__main__":
    sys.exit(main())
