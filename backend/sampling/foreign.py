"""Functions of node packs in a run: what they are asked, and what they may ask of the run.

A `Foreign` patch holds them pickled. Unpickling imports what they need: nothing here knows of ComfyUI.
"""

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from backend.patches import Foreign, ModelPatch
from backend.sampling.prediction import Prediction


class Host(Protocol):
    """The run, as foreign functions may use it: its network is evaluated there and then."""

    @property
    def prediction(self) -> Prediction: ...

    @property
    def device(self) -> torch.device: ...

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

    def predict(self, side: str, x: Tensor, sigma: Tensor, code: "ForeignCode") -> Tensor:
        """The denoised latent under all conditions of a side of the guider, through other functions."""


@dataclass(frozen=True, slots=True, eq=False)
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
def _code(packed: bytes) -> ForeignCode:
    return cast(ForeignCode, pickle.loads(packed))  # whoever packed it says so


def code_of(patch: Foreign) -> ForeignCode:
    """A patch's functions. Raises: whatever unpickling them raises."""
    return _code(patch.code)


def codes_of(patches: Sequence[ModelPatch]) -> tuple[ForeignCode, ...]:
    """Those of all patches, in order."""
    return tuple(code_of(patch) for patch in patches if isinstance(patch, Foreign))
