"""A run, as functions of node packs use it: they evaluate its network themselves, outside shared passes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import torch
from torch import Tensor

from backend.components import LoraUse, Weights
from backend.errors import UnsupportedOption
from backend.models.additions import UNALTERED, Alteration, BlockCode
from backend.models.conditioning import rows_of
from backend.models.latent import LatentFormat
from backend.models.lora import Patch
from backend.references import Model
from backend.sampling.foreign import ForeignCode
from backend.sampling.prediction import Prediction
from backend.sampling.region import combined
from backend.types import OpKey
from backend.values import frozen
from backend.worker.batch import Control, ModelCall, Network, run
from backend.worker.conditions import Condition, Sides
from backend.worker.within import NOTHING, Within

CONTROLS = "control"  # ComfyUI's name, under which a condition's ControlNets pass through foreign functions


Moved: TypeAlias = Callable[
    [tuple[tuple[Weights, float], ...], tuple[LoraUse, ...]], tuple[Network, tuple[Patch, ...]]
]


@frozen(eq=False)
class Target:
    """The model that a run steers: the loaded network and what its outputs mean.

    generator: of random choices that belong to the run. mixes_lengths: as its layout says. moved: the network
    drawn towards other models at strengths, and its LoRAs, those given with the model's, loaded for it.
    within: what networks add within its passes.
    """

    network: Network
    prediction: Prediction
    format: LatentFormat
    device: torch.device
    patches: tuple[Patch, ...] = ()
    mixes_lengths: bool = True
    generator: torch.Generator = field(default_factory=torch.Generator)
    moved: Moved | None = None
    within: Within = NOTHING


@dataclass(slots=True, eq=False)
class RunHost:
    """`sampling.foreign.Host` for one run. alteration: what the part that is evaluated alters anyway.

    model: of the run's guider; others: kinds of the model's patches that shared passes alone honour.
    """

    key: OpKey
    target: Target
    sides: Sides
    model: Model
    others: tuple[str, ...] = ()
    alteration: Alteration = field(default=UNALTERED)

    @property
    def prediction(self) -> Prediction:
        return self.target.prediction

    @property
    def device(self) -> torch.device:
        return self.target.device

    def apply(
        self,
        x: Tensor,
        sigma: Tensor,
        tokens: Tensor,
        extra: Mapping[str, object],
        code: BlockCode | None,
    ) -> Tensor:
        """The denoised latent of one forward pass. code: functions in the network's blocks."""
        prediction, sigma = self.prediction, sigma.detach().float().cpu()
        time = prediction.timestep(sigma).reshape(1).to(self.device, torch.float32)
        output = self.forward(prediction.scale_input(x, sigma), time.expand(len(x)), tokens, extra, code)
        return prediction.denoised(x, output, sigma)

    def forward(
        self,
        x: Tensor,
        times: Tensor,
        tokens: Tensor,
        extra: Mapping[str, object],
        code: BlockCode | None,
    ) -> Tensor:
        """The network's own output for what it is shown: x [B, ...] at times [B]."""
        target, rows = self.target, len(x)
        controls = extra.get(CONTROLS) or ()
        assert isinstance(controls, tuple)
        call = ModelCall(
            op=self.key,
            network=target.network,
            x=x,
            timesteps=times,
            tokens=rows_of(tokens, rows).to(target.device),
            extra={name: rows_of(value, rows) for name, value in extra.items() if isinstance(value, Tensor)},
            patches=target.patches,
            controls=tuple(control for control in controls if isinstance(control, Control)),
            mixes_lengths=target.mixes_lengths,
            alteration=replace(self.alteration, code=code),
        )
        (output,), _ = run([call], rows)
        return output

    def predict(self, side: str, x: Tensor, sigma: Tensor, code: ForeignCode) -> Tensor:
        """The denoised latent under all conditions of a side, as `code` evaluates the network."""
        if self.others:
            remedy = "A node pack guides this run itself: leave those nodes out, or use the server's guiders."
            raise UnsupportedOption("model", ", ".join(self.others), remedy)
        sigma = sigma.detach().float().cpu()
        found = [c for c in self.sides.get(side, ()) if c.region.counts(sigma)]
        parts = [(c.region, self.estimate(c, c.region.crop(x), sigma, side, code)) for c in found]
        return combined(x, parts)

    def estimate(
        self, condition: Condition, x: Tensor, sigma: Tensor, side: str, code: ForeignCode
    ) -> Tensor:
        """The denoised latent of a condition's region x, as `code` evaluates the network."""
        rows, device = len(x), self.target.device
        own = condition.control_tokens
        tokens = None if own is None else rows_of(own, rows).to(device)
        controls = tuple(c.at(x, tokens) for c in condition.controls if c.times.counts(sigma))
        placed = {name: condition.region.crop(value) for name, value in condition.inputs.placed.items()}
        given: dict[str, object] = {
            name: rows_of(value, rows).to(device)
            for name, value in (*condition.inputs.plain.items(), *placed.items())
        }
        given |= {"c_crossattn": rows_of(condition.tokens, rows).to(device), CONTROLS: controls}
        return code.estimate(self, x, sigma, side, given)
