"""Functions of node packs in a run: what they are asked, and what they may ask of the run.

A `Foreign` patch holds them pickled. Unpickling imports what they need: nothing here knows of ComfyUI.
"""

import pickle
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol, TypeAlias, cast

import torch
from torch import Tensor

from backend.patches import Foreign, ModelPatch
from backend.references import Model
from backend.sampling.prediction import Prediction
from backend.sampling.request import DenoiseRequest
from backend.values import frozen


class Host(Protocol):
    """The run, as foreign functions may use it: its network is evaluated there and then."""

    @property
    def prediction(self) -> Prediction: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def model(self) -> Model: ...

    def apply(
        self,
        x: Tensor,
        sigma: Tensor,
        tokens: Tensor,
        extra: Mapping[str, object],
        code: Any,
    ) -> Tensor:
        """The denoised latent for x [B, ...] at sigma (0-dim), under tokens [B, T, C].

        code: functions in the network's blocks (`models.additions.BlockCode`), or None.
        """

    def forward(
        self,
        x: Tensor,
        times: Tensor,
        tokens: Tensor,
        extra: Mapping[str, object],
        code: Any,
    ) -> Tensor:
        """The network's own output for what it is shown: x [B, ...], scaled, at times [B]."""

    def predict(self, side: str, x: Tensor, sigma: Tensor, code: "ForeignCode") -> Tensor:
        """The denoised latent under all conditions of a side of the guider, through other functions.

        Raises: UnsupportedOption where a node of the server has patched the model: that is left to `Asked`.
        """


Shaded: TypeAlias = Callable[[Tensor, Tensor], Tensor]
Asked: TypeAlias = Callable[[DenoiseRequest], Tensor]  # the guided estimate, in passes shared with other runs


@frozen(eq=False)
class Setup:
    """A run for functions of node packs to conduct. latent, noise: [B, C, ...], in LATENT's units; mask: as
    latent, or None. sides, cfg: the conditionings that guide it, and how strongly. sampler, options: the
    server's sampler, where no pack brings its own. shaded: what the mask is at a noise level, where that
    varies.
    """

    noise: Tensor
    latent: Tensor
    sigmas: Tensor
    mask: Tensor | None
    seed: int
    sides: tuple[str, ...]
    cfg: float
    sampler: str
    options: tuple[tuple[str, float | int | str | bool], ...]
    shaded: Shaded | None = None


@frozen(eq=False)
class Conducted:
    """How such a run ended: samples in LATENT's units; denoised: the last estimate, in the model's."""

    samples: Tensor
    denoised: Tensor | None


@frozen(eq=False)
class View:
    """What there is to guide by; as `stages.Seen`, and the run."""

    x: Tensor
    sigma: Tensor
    scale: float
    cond: Tensor
    uncond: Tensor
    both: bool
    host: Host | None = None


class ForeignCode(Protocol):
    """What unpickling gives."""

    @property
    def whole(self) -> bool:
        """Both predictions are wanted, even where guidance needs one alone."""

    @property
    def evaluates(self) -> bool:
        """It takes part in evaluating the network: `estimate` is called in place of a shared pass."""

    @property
    def conducts(self) -> bool:
        """It takes part in the run as a whole: `conduct` is called in place of the server's sampler."""

    def conduct(self, host: Host, ask: Asked, setup: Setup, codes: Sequence["ForeignCode"]) -> Conducted:
        """The run. codes: those of its model, sampler and guider, this one among them."""

    def prediction(self, known: Prediction) -> Prediction:
        """What the model's output means."""

    def before(self, view: View) -> tuple[Tensor, Tensor]:
        """The positive and negative prediction that are guided by."""

    def instead(self, view: View) -> Tensor | None:
        """The guided prediction; None: by the usual rule."""

    def after(self, result: Tensor, view: View) -> Tensor:
        """The guided prediction, changed."""

    def estimate(self, host: Host, x: Tensor, sigma: Tensor, side: str, c: dict[str, object]) -> Tensor:
        """The denoised latent under one condition. c: what the network is given, by ComfyUI's names."""


@lru_cache(maxsize=64)
def unpacked(packed: bytes) -> ForeignCode:
    """Raises: whatever unpickling raises."""
    return cast(ForeignCode, pickle.loads(packed))  # whoever packed it says so


class NoiseMaker(Protocol):
    """A NOISE object of a pack."""

    def make_noise(self, latent: Mapping[str, object]) -> Tensor:
        """The initial noise for ComfyUI's LATENT."""


def noise_maker(packed: bytes) -> NoiseMaker:
    """Raises: as `unpacked`."""
    return cast(NoiseMaker, unpacked(packed))  # it was packed as one


class LevelMaker(Protocol):
    """A schedule of a pack."""

    def make_levels(self, prediction: Prediction, steps: int) -> Tensor:
        """Its sigmas for a model: float32, 1-dim."""


def level_maker(packed: bytes) -> LevelMaker:
    """Raises: as `unpacked`."""
    return cast(LevelMaker, unpacked(packed))  # it was packed as one


def code_of(patch: Foreign) -> ForeignCode:
    """A patch's functions. Raises: whatever unpickling them raises."""
    return unpacked(patch.code)


def codes_of(patches: Sequence[ModelPatch]) -> tuple[ForeignCode, ...]:
    """Those of all patches, in order."""
    return tuple(code_of(patch) for patch in patches if isinstance(patch, Foreign))
