"""GUIDER values: the server's as packs see them, and packs' own."""

from collections.abc import Mapping
from copy import copy
from typing import Any

from torch import Tensor

from backend.guiders import (
    BasicGuider,
    CfgGuider,
    DualCfgGuider,
    ForeignGuider,
    Guider,
    PerpNegGuider,
)
from backend.references import Model
from backend.types import Conditioning, Latent
from comfy_compat.conditions import conditioning_of, pairs_of
from comfy_compat.conducting import GuiderRun
from comfy_compat.foreign import Part
from comfy_compat.models import model_reference, owner, part_code, unpickled
from comfy_compat.patcher import ModelPatcher
from comfy_compat.sampling import ran

_SIDES = ("positive", "middle", "negative", "empty")
# What a run calls of a guider: where a pack overrides any of it, its guider travels to the worker.
_RUN = ("outer_sample", "inner_sample", "outer_predict_noise", "predict_noise", "__call__")


# -- GUIDER ----------------------------------------------------------------------------------------


class CFGGuider(GuiderRun):
    """A GUIDER: a model steered by conditions. Packs subclass it; what they override runs with the model."""

    def __init__(self, model_patcher: Any) -> None:
        self.model_patcher = model_patcher
        self.model_options = getattr(model_patcher, "model_options", {})
        self.original_conds: dict[str, Any] = {}
        self.conds: dict[str, Any] = {}
        self.cfg = 1.0
        self.inner_model: Any = None

    def set_conds(self, positive: Any, negative: Any) -> None:
        self.inner_set_conds({"positive": positive, "negative": negative})

    def set_cfg(self, cfg: float) -> None:
        self.cfg = cfg

    def inner_set_conds(self, conds: Mapping[str, Any]) -> None:
        """CONDITIONING by side."""
        self.original_conds.update(conds)

    def reference(self, entered: bool = False) -> Guider:
        """The server's guider that does the same, or the pack's own. entered: its `sample` was called.

        Raises: UnsupportedOption, Unpackable.
        """
        model = model_reference(self.model_patcher)
        sides = {side: conditioning_of(conds) for side, conds in self.original_conds.items()}
        names = _RUN if entered else ("sample", *_RUN)
        if any(getattr(type(self), name) is not getattr(CFGGuider, name) for name in names):
            return self._foreign(model, tuple(sides.items()), entered)
        if "negative" not in sides:
            return BasicGuider(model, sides["positive"])
        return CfgGuider(model, sides["positive"], sides["negative"], float(self.cfg))

    def _foreign(
        self, model: Model, sides: tuple[tuple[str, Conditioning], ...], entered: bool
    ) -> ForeignGuider:
        """The pack's guider, without what a run hands it anew."""
        bare = copy(self)
        bare.model_patcher, bare.model_options, bare.inner_model = None, {}, None
        bare.original_conds, bare.conds = {}, {}
        code = part_code(Part(guider=bare, entered=entered), f"The guider {type(self).__name__}")
        return ForeignGuider(model, sides, float(self.cfg), code, owner())

    def sample(
        self,
        noise: Tensor,
        latent_image: Tensor,
        sampler: Any,
        sigmas: Tensor,
        denoise_mask: Tensor | None = None,
        callback: Any = None,
        disable_pbar: bool = False,
        seed: int | None = None,
    ) -> Tensor:
        """A run: the samples, in the latent's units."""
        if self.running is not None:
            return self.run(noise, latent_image, sampler, sigmas, denoise_mask, callback, disable_pbar, seed)
        latent = Latent(latent_image.detach().cpu().float(), denoise_mask)
        return ran(self.reference(entered=True), latent, noise, sampler, sigmas, callback, seed)


class GuiderHandle(CFGGuider):
    """One of the server's guiders, as packs see it."""

    def __init__(self, reference: Guider, model_patcher: Any, sides: Mapping[str, Any]) -> None:
        super().__init__(model_patcher)
        self._reference = reference
        self.original_conds = dict(sides)
        self.cfg = getattr(reference, "cfg", 1.0)

    def reference(self, entered: bool = False) -> Guider:
        """With whatever was set since."""
        known = self._reference
        sides = {side: conditioning_of(conds) for side, conds in self.original_conds.items()}
        model = model_reference(self.model_patcher)
        match known:
            case BasicGuider():
                return BasicGuider(model, sides["positive"])
            case CfgGuider():
                return CfgGuider(model, sides["positive"], sides["negative"], float(self.cfg))
            case DualCfgGuider() | PerpNegGuider() | ForeignGuider():
                return known


def guider_of(reference: Guider) -> CFGGuider:
    """The handle of a reference."""
    patcher = ModelPatcher.of(reference.model)
    if isinstance(reference, ForeignGuider):
        guider: CFGGuider = copy(unpickled(reference.code).guider)
        guider.model_patcher, guider.model_options = patcher, patcher.model_options
        guider.original_conds = {side: pairs_of(conds) for side, conds in reference.sides}
        return guider
    sides = {side: pairs_of(getattr(reference, side)) for side in _SIDES if hasattr(reference, side)}
    return GuiderHandle(reference, patcher, sides)
