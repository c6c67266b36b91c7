"""The steps of a run, kept for node packs that want to be told of them."""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor

from backend.sampling.run import Outcome, Run
from backend.types import Latent

Finish: TypeAlias = Callable[[Outcome], tuple[Latent, ...]]
MOST = 64 << 20  # bytes that the steps of one run may take; of a larger one the last is kept


def traced(run: Run, finish: Finish, latent: Latent, steps: int) -> tuple[Run, Finish]:
    """The run as it is, with a further output: [steps, 2, B, ...], of each step its estimate and what it
    began with, in the model's units.
    """
    kept: list[Tensor] = []
    most = max(1, steps if 2 * steps * latent.samples.numel() * 4 <= MOST else 1)

    def ended(outcome: Outcome) -> tuple[Latent, ...]:
        pairs = torch.stack(kept) if kept else torch.zeros(0, 2, *latent.samples.shape)
        return (*finish(outcome), replace(latent, samples=pairs, noise_mask=None))

    return _noted(run, kept, most), ended


def _noted(run: Run, kept: list[Tensor], most: int) -> Run:
    reply: Tensor | None = None
    try:
        while True:
            try:
                request = next(run) if reply is None else run.send(reply)
            except StopIteration as end:
                outcome: Outcome = end.value
                return outcome
            reply = yield request
            if request.step is not None:
                estimate = reply[0] if request.uncond else reply
                del kept[: max(0, len(kept) - most + 1)]
                kept.append(torch.stack([estimate, request.x]).float().cpu())
    finally:
        run.close()
